"""What there is to see of a sweep, from its journal alone: so also when the cluster is gone.

A watcher reads events once and keeps what it needs of them; rows it reads anew for each frame.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.driver_life import DriverLife, driver_life, store_away_s
from orchestrator.inbox import Inbox
from orchestrator.journal_reader import JournalReader, TrialRow
from orchestrator.mirror_lag import MirrorLag, lag_path, read_lag
from search_spaces.contracts import TrialState

RATE_WINDOW_S = 3600.0
NUM_COMMANDS = 3
DENSE = "dense"
_ROUND = re.compile(r"r\d+")


@dataclass(frozen=True)
class RunningTrial:
    """An attempt under way, as the last heartbeat knew it."""

    key: str
    label: str
    attempt: int
    phase: str
    step: int
    num_steps: int
    loss: float | None
    seconds: float


@dataclass(frozen=True)
class FailedTrial:
    """A trial that failed for good, and how many it blocks."""

    key: str
    label: str
    failure: str
    message: str
    num_blocked: int


@dataclass(frozen=True)
class Grid:
    """The trials' states by task and method, and by level.

    Attributes:
        columns: Levels as labels write them, ``dense`` first.
        rows: Each row's name, and the states in each of its columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, dict[str, tuple[TrialState, ...]]], ...]


@dataclass(frozen=True)
class Frame:
    """All that one look shows.

    Attributes:
        at: Seconds since the epoch.
        num_waiting: Commands that no driver has taken out yet.
        trials_per_h: Of this run, over the last hour at most; None while none has ended.
        tokens_per_s: Training tokens of one slot.
        eta_s: Seconds to the end by the cost model; None while nothing runs towards it.
        eta_is_measured: Whether the model was fed with results.
        commands: The last ones, with their answers.
        mirror: How far MLflow is behind; None where no run has mirrored anything yet.
        store_away_s: For how long the store has not answered; None = it does.
    """

    name: str
    at: float
    life: DriverLife
    is_paused: bool
    num_waiting: int
    where: str
    kinds: dict[str, dict[TrialState, int]]
    counts: dict[TrialState, int]
    grid: Grid
    running: tuple[RunningTrial, ...]
    failed: tuple[FailedTrial, ...]
    trials_per_h: float | None
    tokens_per_s: float | None
    eta_s: float | None
    eta_is_measured: bool
    commands: tuple[str, ...]
    mirror: MirrorLag | None
    store_away_s: float | None


class Watcher:
    """Looks at a journal again and again."""

    def __init__(self, reader: JournalReader) -> None:
        self._reader = reader
        self._last_id = 0
        self._failures: dict[str, str] = {}  # class of each trial's last failure
        self._causes: dict[str, str] = {}  # what blocks a trial
        self._ended_at: list[float] = []
        self._commands: list[str] = []

    def look(self, now: float) -> Frame:
        """Return what there is to see."""
        self._take_events()
        meta, rows, counts = self._reader.meta(), self._reader.trials(), self._reader.counts()
        life = driver_life(meta, self._reader.path, now)
        vitals = json.loads(meta.get("vitals", "{}"))
        is_paused = meta.get("paused") == "1"
        seen_at = now - (0.0 if life.state == "alive" else life.heartbeat_age_s)
        goes_on = life.state == "alive" and not is_paused and _num_open(counts) > 0
        eta_s = vitals.get("eta_s") if goes_on else None
        return Frame(
            name=meta["name"],
            at=now,
            life=life,
            is_paused=is_paused,
            num_waiting=Inbox(self._reader.path).num_waiting,
            where=vitals.get("where", ""),
            kinds=_kinds(rows),
            counts=counts,
            grid=make_grid(rows),
            running=tuple(_running(rows, vitals.get("running", []), seen_at)),
            failed=tuple(self._failed(rows)),
            trials_per_h=self._rate(float(meta["started_at"]), seen_at),
            tokens_per_s=vitals.get("tokens_per_s"),
            eta_s=None if eta_s is None else max(0.0, eta_s - life.heartbeat_age_s),
            eta_is_measured=bool(vitals.get("is_measured")),
            commands=tuple(self._commands[-NUM_COMMANDS:]),
            mirror=read_lag(lag_path(self._reader.path)),
            store_away_s=store_away_s(meta, life, now),
        )

    def _take_events(self) -> None:
        kinds = ("failed", "blocked", "succeeded", "command")
        for event in self._reader.events_of(*kinds, after_id=self._last_id):
            self._last_id = event.id
            match event.kind:
                case "failed":
                    self._failures[event.key] = event.payload["failure"]
                case "blocked":
                    self._causes[event.key] = event.payload.get("cause", "")
                case "succeeded":
                    self._ended_at.append(event.at)
                case "command":
                    self._commands.append(f"{event.payload['verb']}: {event.payload['text']}")

    def _failed(self, rows: Sequence[TrialRow]) -> list[FailedTrial]:
        num_blocked = Counter(
            self._causes.get(row.key) for row in rows if row.state is TrialState.BLOCKED
        )
        return [
            FailedTrial(
                r.key, r.label, self._failures.get(r.key, ""), r.message, num_blocked[r.key]
            )
            for r in rows
            if r.state is TrialState.FAILED
        ]

    def _rate(self, started_at: float, seen_at: float) -> float | None:
        """Return the trials that ended well in an hour of this run."""
        begin = max(started_at, seen_at - RATE_WINDOW_S)
        num = sum(begin <= at <= seen_at for at in self._ended_at)
        return num * 3600.0 / (seen_at - begin) if num and seen_at > begin else None


def make_grid(rows: Sequence[TrialRow]) -> Grid:
    """Return the trials' states by what their labels say of them."""
    cells: dict[str, dict[str, list[TrialState]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        name, column = grid_place(row.label)
        cells[name][column].append(row.state)
    columns = {column for found in cells.values() for column in found}
    ordered = sorted(columns, key=lambda column: 0.0 if column == DENSE else float(column))
    table = (
        (name, {column: tuple(states) for column, states in found.items()})
        for name, found in cells.items()
    )
    return Grid(tuple(ordered), tuple(table))


def grid_place(label: str) -> tuple[str, str]:
    """Return the row and the column of a trial: what it is of, and its level."""
    kind, task, *rest = label.split(":")
    words = [word for word in rest[:-1] if not _ROUND.fullmatch(word)]
    level = words.pop() if words and _is_number(words[-1]) else DENSE
    which = {"round": "search", "transfer": "transfer"}.get(kind, "")
    return " ".join(word for word in (task, *words, which) if word), level


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _kinds(rows: Sequence[TrialRow]) -> dict[str, dict[TrialState, int]]:
    found: dict[str, Counter[TrialState]] = defaultdict(Counter)
    for row in rows:
        found[row.kind][row.state] += 1
    return {kind: dict(states) for kind, states in found.items()}


def _running(
    rows: Sequence[TrialRow], vitals: Sequence[dict[str, Any]], seen_at: float
) -> list[RunningTrial]:
    """Return the running trials, the one that runs longest first."""
    points = {point["trial_key"]: point for point in vitals}
    found = []
    for row in rows:
        if row.state is TrialState.RUNNING:
            point = points.get(row.key, {})
            step, num_steps = point.get("step", 0), point.get("num_steps", 0)
            loss = point["loss"] if step and math.isfinite(point["loss"]) else None
            seconds = max(0.0, seen_at - row.updated_at)
            phase = point.get("phase", "start")
            found.append(
                RunningTrial(
                    row.key, row.label, row.attempts, phase, step, num_steps, loss, seconds
                )
            )
    return sorted(found, key=lambda one: -one.seconds)


def _num_open(counts: dict[TrialState, int]) -> int:
    return counts[TrialState.PENDING] + counts[TrialState.RUNNING]
