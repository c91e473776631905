"""Everything that is known of one trial: its attempts, what happened to it, and its rank's log."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.journal_reader import EventRow, JournalReader, TrialRow
from search_spaces.canonical import short

NUM_LOG_LINES = 40
_LOG_PLACE = re.compile(r"\(process (\d+) on (\S+), log ([^()]+)\)")  # as cluster.calls writes it


@dataclass(frozen=True)
class RankLog:
    """Where the process of a failed attempt logged.

    Attributes:
        tail: The file's last lines; None where it is not on this machine.
    """

    pid: int
    node: str
    path: str
    tail: tuple[str, ...] | None


@dataclass(frozen=True)
class LoggedEvent:
    """One thing that happened to a trial.

    Attributes:
        text: For people, on one line.
        details: What the process that failed left, mostly a traceback.
        log: Its log, where it said which.
    """

    at: float
    kind: str
    attempt: str
    text: str
    details: str = ""
    log: RankLog | None = None


@dataclass(frozen=True)
class TrialLog:
    """What is known of one trial, oldest event first."""

    row: TrialRow
    events: tuple[LoggedEvent, ...]


def trial_log(reader: JournalReader, row: TrialRow) -> TrialLog:
    """Return everything that the journal and this machine know of a trial."""
    return TrialLog(row, tuple(_logged(event) for event in reader.events_about(row.key)))


def _logged(event: EventRow) -> LoggedEvent:
    payload = event.payload
    details = str(payload.get("details", ""))
    return LoggedEvent(
        event.at,
        event.kind,
        str(payload.get("attempt", "")),
        _text(event.key, event.kind, payload),
        details.strip(),
        _rank_log(f"{payload.get('message', '')}\n{details}"),
    )


def _text(key: str, kind: str, payload: dict[str, Any]) -> str:
    match kind:
        case "failed":
            end = "will be tried again" if payload.get("will_retry") else "given up"
            return f"{payload.get('failure', 'unknown')}, {end}: {payload.get('message', '')}"
        case "blocked" | "given_up":
            cause = payload.get("cause", "")
            return f"because of {short(cause)}" if cause not in ("", key) else ""
        case "started" | "succeeded" | "reused":
            return str(payload.get("note", ""))
        case "refused":
            return f"{payload.get('answer', '')} too late: it was given up or replaced before"
        case "added":
            return str(payload.get("reason", ""))
        case "interrupted":
            return "the run that drove it ended without a word"
        case "lost":
            return "the store no longer holds its result"
        case _:
            return ""


def _rank_log(text: str) -> RankLog | None:
    found = _LOG_PLACE.search(text)
    if found is None or found[3].strip() == "unknown":
        return None
    path = found[3].strip()
    return RankLog(int(found[1]), found[2], path, _tail(Path(path)))


def _tail(path: Path) -> tuple[str, ...] | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return tuple(line.rstrip("\n") for line in deque(file, maxlen=NUM_LOG_LINES))
    except OSError:
        return None


def log_lines(log: TrialLog, times: Sequence[str]) -> list[str]:
    """Return a trial's log as lines of text.

    Args:
        log: The trial's.
        times: When each event happened, for people.
    """
    row = log.row
    lines = [f"{row.label}  {row.state}", f"key {row.key}", f"attempts started: {row.attempts}"]
    lines += [f"message: {row.message}"] if row.message else []
    lines += ["", "events:"] if log.events else ["", "Nothing has happened to it yet."]
    for event, time in zip(log.events, times, strict=True):
        parts = [time, event.kind, event.attempt, event.text]
        lines.append("  " + "  ".join(part for part in parts if part))
        lines += [f"    | {line}" for line in event.details.splitlines()]
        lines += _log_lines(event.log) if event.log else []
    return lines


def _log_lines(log: RankLog) -> list[str]:
    if log.tail is None:
        return [f"    its log is on {log.node}: {log.path} (not on this machine, or gone)"]
    return [
        f"    its log, {log.path}, ends with:",
        *(f"    > {line}" for line in log.tail),
    ]
