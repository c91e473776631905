"""Reading a journal: how each trial of a sweep stands, and what has happened."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.contracts import TrialState
from search_spaces.errors import UserError

JOURNAL_SCHEMA = 1


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
        rows = self._select("SELECT * FROM trial ORDER BY rowid")
        return [
            TrialRow(key, label, kind, TrialState(state), attempts, message, seconds, updated_at)
            for key, label, kind, state, attempts, message, seconds, updated_at in rows
        ]

    def events(self, after_id: int = 0) -> list[EventRow]:
        """Return the events after one, oldest first."""
        return _event_rows(self._select("SELECT * FROM event WHERE id > ? ORDER BY id", after_id))

    def events_of(self, *kinds: str, after_id: int = 0) -> list[EventRow]:
        """Return the events of some kinds after one, oldest first."""
        marks = ", ".join("?" * len(kinds))
        rows = self._select(
            f"SELECT * FROM event WHERE id > ? AND kind IN ({marks}) ORDER BY id", after_id, *kinds
        )
        return _event_rows(rows)

    def events_about(self, key: str) -> list[EventRow]:
        """Return the events of one trial, oldest first."""
        return _event_rows(self._select("SELECT * FROM event WHERE key = ? ORDER BY id", key))

    def last_event_id(self) -> int:
        """Return the newest event's id; 0 while there is none."""
        return int(self._select("SELECT COALESCE(MAX(id), 0) FROM event")[0][0])

    def meta(self) -> dict[str, str]:
        """Return name, sweep_hash, spec_yaml, schema_version, pid, host, started_at, heartbeat.

        Where there was a reason to write them also paused, vitals and ended_at.
        """
        return dict(self._select("SELECT name, value FROM meta"))

    def counts(self) -> dict[TrialState, int]:
        """Return the number of trials in every state."""
        found = dict(self._select("SELECT state, COUNT(*) FROM trial GROUP BY state"))
        return {state: found.get(state.value, 0) for state in TrialState}

    def num_attempts(self, key: str) -> int:
        """Return how many attempts of a trial were ever started; 0 when it is unknown."""
        rows = self._select("SELECT attempts FROM trial WHERE key = ?", key)
        return int(rows[0][0]) if rows else 0

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._database.close()

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _select(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with explained(self.path):
            return self._database.execute(statement, values).fetchall()


def _event_rows(rows: Iterable[tuple[Any, ...]]) -> list[EventRow]:
    return [
        EventRow(id_, at, key, kind, json.loads(payload)) for id_, at, key, kind, payload in rows
    ]


def open_reader(path: str | Path) -> JournalReader:
    """Open a journal for reading; neither waits for its writer nor disturbs it.

    Raises:
        UserError: When there is no such journal, it is damaged or of another version.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no journal. Start the sweep with 'tickets run'.")
    with explained(path):
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    reader = JournalReader(path, database)
    try:
        require_schema(reader)
    except UserError:
        reader.close()
        raise
    return reader


def require_schema(reader: JournalReader) -> None:
    """Raise a UserError when a journal is of another version."""
    version = reader.meta().get("schema_version")
    if version != str(JOURNAL_SCHEMA):
        raise UserError(
            f"{reader.path}: the journal has schema {version}, but this version of bert-tickets "
            f"knows {JOURNAL_SCHEMA}. Move it away and run the sweep again: it is rebuilt from "
            "the store."
        )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise into a UserError that names the journal."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise UserError(
            f"{path}: the journal cannot be used ({error}). If it is damaged, move it away and "
            "run the sweep again: it is rebuilt from the store."
        ) from error
