"""The journal: what the orchestrator of one sweep has done and is doing, in SQLite.

One process writes, any number read. The store is the truth: a journal that is lost or behind is
rebuilt from it.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.graph import TrialGraph
from orchestrator.journal_file import JOURNAL_SCHEMA, explained
from orchestrator.journal_lock import JournalLock
from orchestrator.journal_opening import open_database
from orchestrator.journal_reader import JournalReader, open_reader
from orchestrator.store import CommittedTrial, Store
from search_spaces.contracts import TrialResult, TrialState
from search_spaces.resuming import beginning_of
from search_spaces.trial import Trial

_REGISTER = """
INSERT INTO trial VALUES (?, ?, ?, ?, 0, '', ?, ?)
ON CONFLICT (key) DO UPDATE SET label = excluded.label, kind = excluded.kind,
    state = excluded.state, message = '', seconds = excluded.seconds,
    updated_at = CASE WHEN state = excluded.state THEN updated_at ELSE excluded.updated_at END
"""


@dataclass(frozen=True)
class SweepInfo:
    """Which sweep a journal is of."""

    name: str
    sweep_hash: str
    spec_yaml: str


@dataclass(frozen=True)
class Transition:
    """A trial's new state, and the event that led to it."""

    key: str
    state: TrialState
    event: str
    message: str = ""
    seconds: float | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def done(cls, key: str, event: str, result: TrialResult) -> Transition:
        """Return the transition of a trial whose result is in the store."""
        note = beginning_of(result.resumed_at_step, result.restart_reason)
        return cls(
            key,
            TrialState.SUCCEEDED,
            event,
            seconds=result.seconds.get("total"),
            payload={"attempt": result.attempt} | ({"note": note} if note else {}),
        )


class Journal(JournalReader):
    """Writes a journal; there is one of these for each path at any time.

    Every change is one durable transaction (WAL, synchronous=FULL; see `journal_opening`).
    """

    def __init__(self, path: Path, database: sqlite3.Connection, lock: JournalLock) -> None:
        super().__init__(path, database)
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, sweep: SweepInfo, now: float) -> Journal:
        """Open a journal for writing, made if need be, and take its lock.

        Trials that a crashed predecessor left RUNNING become PENDING, with an event
        ``interrupted``. A damaged journal is moved aside, with a warning and an event
        ``rebuilt``, and begun anew: the store has the results, :meth:`rebuild` brings them back.

        Raises:
            UserError: When another process writes it, or it is of another program or version.
        """
        path = Path(path)
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = JournalLock(path)
        try:
            with explained(path):
                database, mishap = open_database(path)
        except BaseException:
            lock.close()
            raise
        journal = cls(path, database, lock)
        try:
            journal._begin(sweep, now, mishap)
        except BaseException:
            journal.close()
            raise
        return journal

    @staticmethod
    def read_only(path: str | Path) -> JournalReader:
        """Open a journal for reading; see `open_reader`."""
        return open_reader(path)

    def record(self, transitions: Iterable[Transition], now: float) -> None:
        """Write some trials' new states and their events, all or none of them."""
        with self._transaction():
            for change in transitions:
                self._change(change, now)

    def add(self, key: str, trial: Trial, reason: str, now: float) -> None:
        """Write that a policy added a trial."""
        with self._transaction():
            self._database.execute(_REGISTER, _row(key, trial, None, now))
            self._event(now, key, "added", {"reason": reason})

    def note(self, key: str, kind: str, payload: Mapping[str, Any], now: float) -> None:
        """Write an event that changes no trial's state."""
        with self._transaction():
            self._event(now, key, kind, payload)

    def show_life(self, vitals: Mapping[str, Any], now: float) -> None:
        """Write that the orchestrator is alive, and how the running attempts get on.

        Args:
            vitals: Plain data in place of what was told before; see `orchestrator.vitals`.
            now: Seconds since the epoch.
        """
        with self._transaction():
            self._set_meta({"heartbeat": now, "vitals": json.dumps(dict(vitals))})

    def obey(
        self,
        answer: Mapping[str, Any],
        transitions: Iterable[Transition],
        now: float,
        paused: bool | None = None,
    ) -> None:
        """Write what a command led to, all of it or nothing.

        Args:
            answer: The command and its answer; a later run finds its ``id`` here.
            transitions: Trials' new states.
            now: Seconds since the epoch.
            paused: Whether the sweep is paused from now on; None leaves that as it is.
        """
        with self._transaction():
            self._event(now, "", "command", answer)
            for change in transitions:
                self._change(change, now)
            if paused is not None:
                self._set_meta({"paused": int(paused)})

    def end(self, now: float) -> None:
        """Write that the orchestrator stops of its own accord."""
        with self._transaction():
            self._set_meta({"ended_at": now})

    def rebuild(self, graph: TrialGraph, store: Store, now: float) -> dict[str, CommittedTrial]:
        """Make the rows those of the graph, with the states that the store proves.

        A trial is SUCCEEDED when the store holds its result with all outputs, else PENDING.
        Numbers of attempts stay; rows of trials that are no longer wanted go.

        Returns:
            What the store holds of the trials that succeeded, by key.
        """
        committed = usable(graph, store)
        before = {row.key: row.state for row in self.trials()}
        with self._transaction():
            gone = [(key,) for key in before if key not in graph]
            self._database.executemany("DELETE FROM trial WHERE key = ?", gone)
            self._database.executemany(
                _REGISTER, (_row(key, graph[key], committed.get(key), now) for key in graph)
            )
            for key in graph:
                was_done = before.get(key) is TrialState.SUCCEEDED
                if key in committed and not was_done:
                    record = committed[key]
                    self._event(now, key, "reused", {"attempt": record.result.attempt})
                elif was_done and key not in committed:
                    self._event(now, key, "lost", {})
        return committed

    def close(self) -> None:
        """Close the file and give the lock back; may be called twice."""
        super().close()
        self._lock.close()

    def __enter__(self) -> Journal:
        return self

    def _begin(self, sweep: SweepInfo, now: float, mishap: Mapping[str, str]) -> None:
        before = self.meta()
        with self._transaction():
            if mishap:
                self._event(now, "", "rebuilt", mishap)
            if before and before["sweep_hash"] != sweep.sweep_hash:
                hashes = {"from": before["sweep_hash"], "to": sweep.sweep_hash}
                self._event(now, "", "sweep_changed", hashes)
            self._set_meta(
                {
                    "name": sweep.name,
                    "sweep_hash": sweep.sweep_hash,
                    "spec_yaml": sweep.spec_yaml,
                    "schema_version": JOURNAL_SCHEMA,
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "started_at": now,
                    "ended_at": "-inf",  # a clock set back must not make this run an ended one
                    "heartbeat": now,
                }
            )
            self._interrupt(now)

    def _interrupt(self, now: float) -> None:
        running = (TrialState.RUNNING.value,)
        for (key,) in self._select("SELECT key FROM trial WHERE state = ?", *running):
            self._event(now, key, "interrupted", {})
        self._database.execute(
            "UPDATE trial SET state = ?, updated_at = ? WHERE state = ?",
            (TrialState.PENDING.value, now, *running),
        )

    def _change(self, change: Transition, now: float) -> None:
        self._event(now, change.key, change.event, change.payload)
        self._database.execute(
            "UPDATE trial SET state = ?, message = ?, seconds = ?, updated_at = ?, "
            "attempts = attempts + ? WHERE key = ?",
            (
                change.state.value,
                change.message,
                change.seconds,
                now,
                int(change.event == "started"),
                change.key,
            ),
        )

    def _set_meta(self, values: Mapping[str, object]) -> None:
        self._database.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)",
            [(name, str(value)) for name, value in values.items()],
        )

    def _event(self, now: float, key: str, kind: str, payload: Mapping[str, Any]) -> None:
        self._database.execute(
            "INSERT INTO event (at, key, kind, payload) VALUES (?, ?, ?, ?)",
            (now, key, kind, json.dumps(dict(payload), sort_keys=True)),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explained(self.path), self._database:
            yield


def usable(graph: TrialGraph, store: Store) -> dict[str, CommittedTrial]:
    """Return what the store holds of the trials that need not run, by key."""

    def look(key: str) -> CommittedTrial | None:
        record = store.record(key)
        return record if record and not store.missing(record, graph[key].outputs) else None

    known = set(store.trial_keys())
    keys = [key for key in graph.trials if key in known]
    found = zip(keys, store.for_each(look, keys), strict=True)
    return {key: record for key, record in found if record}


def _row(
    key: str, trial: Trial, record: CommittedTrial | None, now: float
) -> tuple[str, str, str, str, float | None, float]:
    state = TrialState.SUCCEEDED if record else TrialState.PENDING
    seconds = record.result.seconds.get("total") if record else None
    return key, trial.main_role.label, trial.kind, state.value, seconds, now
