"""Reading a journal: how each trial of a sweep stands, and what has happened."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.journal_file import (
    COLUMNS,
    DamagedJournalError,
    explained,
    reading_uri,
    require_own,
    require_whole_file,
)
from search_spaces.contracts import TrialState
from search_spaces.errors import UserError

# What the values of a row raise that no journal ever wrote.
_UNREADABLE = (ValueError, TypeError, ArithmeticError, AttributeError, RecursionError)


@dataclass(frozen=True)
class TrialRow:
    """How one trial stands; `seconds` is the wall time of its successful attempt."""

    key: str
    label: str
    kind: str
    state: TrialState
    attempts: int
    message: str
    seconds: float | None
    updated_at: float


@dataclass(frozen=True)
class EventRow:
    """Something that happened; `key` is empty where it concerns the whole sweep."""

    id: int
    at: float
    key: str
    kind: str
    payload: dict[str, Any]


class JournalReader:
    """Reads a journal, also while a sweep writes it."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database

    def trials(self) -> list[TrialRow]:
        """Return every trial, in the order of the graph."""
        rows = self._select(f"SELECT {COLUMNS['trial']} FROM trial ORDER BY rowid")
        with self._decoding():
            return [_trial_row(*row) for row in rows]

    def events(self, after_id: int = 0) -> list[EventRow]:
        """Return the events after one, oldest first."""
        return self._events("id > ?", after_id)

    def events_of(self, *kinds: str, after_id: int = 0) -> list[EventRow]:
        """Return the events of some kinds after one, oldest first."""
        marks = ", ".join("?" * len(kinds))
        return self._events(f"id > ? AND kind IN ({marks})", after_id, *kinds)

    def events_about(self, key: str) -> list[EventRow]:
        """Return the events of one trial, oldest first."""
        return self._events("key = ?", key)

    def last_event_id(self) -> int:
        """Return the newest event's id; 0 while there is none."""
        return int(self._select("SELECT COALESCE(MAX(id), 0) FROM event")[0][0])

    def meta(self) -> dict[str, str]:
        """Return name, sweep_hash, spec_yaml, schema_version, pid, host, started_at, heartbeat.

        Also ended_at, ``-inf`` while the run lasts; paused and vitals where there was a reason.
        """
        return dict(self._select("SELECT name, value FROM meta"))

    def counts(self) -> dict[TrialState, int]:
        """Return the number of trials in every state."""
        found = dict(self._select("SELECT state, COUNT(*) FROM trial GROUP BY state"))
        return {state: found.get(state.value, 0) for state in TrialState}

    def num_attempts(self, key: str) -> int:
        """Return how many attempts of a trial were ever started; 0 when it is unknown."""
        rows = self._select("SELECT attempts FROM trial WHERE key = ?", key)
        with self._decoding():
            return int(rows[0][0]) if rows else 0

    def require_readable(self) -> None:
        """Read every row once, and keep none.

        Raises:
            BrokenJournalError: One is not what a journal holds.
        """
        with self._decoding():
            for row in self._database.execute(f"SELECT {COLUMNS['trial']} FROM trial"):
                _trial_row(*row)
            for row in self._database.execute(f"SELECT {COLUMNS['event']} FROM event"):
                _event_row(*row)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._database.close()

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _events(self, condition: str, *values: object) -> list[EventRow]:
        statement = f"SELECT {COLUMNS['event']} FROM event WHERE {condition} ORDER BY id"
        rows = self._select(statement, *values)
        with self._decoding():
            return [_event_row(*row) for row in rows]

    def _select(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with explained(self.path):
            return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Explain values that no journal holds."""
        with explained(self.path):
            try:
                yield
            except _UNREADABLE as error:
                raise DamagedJournalError(f"a row cannot be read: {error}") from error


def open_reader(path: str | Path) -> JournalReader:
    """Open a journal for reading; neither waits for its writer nor disturbs it.

    Raises:
        BrokenJournalError: When it is damaged.
        UserError: When there is no such journal, or it is of another version.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no journal. Start the sweep with 'tickets run'.")
    with explained(path):
        require_whole_file(path)
        database = sqlite3.connect(reading_uri(path), uri=True)
    try:
        with explained(path):
            require_own(path, database)
    except UserError:
        database.close()
        raise
    return JournalReader(path, database)


def _trial_row(
    key: str,
    label: str,
    kind: str,
    state: str,
    attempts: int,
    message: str,
    seconds: float | None,
    updated_at: float,
) -> TrialRow:
    return TrialRow(
        key=str(key),
        label=str(label),
        kind=str(kind),
        state=TrialState(state),
        attempts=int(attempts),
        message=str(message),
        seconds=None if seconds is None else float(seconds),
        updated_at=float(updated_at),
    )


def _event_row(number: int, at: float, key: str, kind: str, payload: str) -> EventRow:
    said = json.loads(payload)
    if not isinstance(said, dict):
        raise TypeError(f"the payload of event {number} is no object")
    return EventRow(int(number), float(at), str(key), str(kind), said)
