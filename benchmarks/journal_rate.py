"""Durable transitions a second: our journal, SQLite as it comes, and lines of JSON.

Every transition is one transaction that is on the disk before the next one begins. SQLite as it
comes (a rollback journal, synchronous=FULL) writes the same tables; the lines hold events alone, so
that the state of a trial is known only after reading all of them.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.measure import OURS, Case, Goal, Report, Sample, interleave, timed
from benchmarks.sleeping import Search
from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, SweepInfo, Transition
from orchestrator.store import Store
from search_spaces.contracts import TrialState
from search_spaces.trial import Trial

PLAIN_SQLITE = "SQLite as it comes"
LINES = "JSON lines"
_TABLES = """
CREATE TABLE trial (key TEXT PRIMARY KEY, state TEXT, attempts INTEGER, seconds REAL, at REAL);
CREATE TABLE event (id INTEGER PRIMARY KEY, at REAL, key TEXT, kind TEXT, payload TEXT);
"""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    num_trials: int
    num_rounds: int


FULL, QUICK, SMOKE = Size(200, 7), Size(100, 3), Size(5, 1)


def run(smoke: bool, quick: bool = False) -> Report:
    """Start and end every trial of a search in each of the three."""
    size = SMOKE if smoke else QUICK if quick else FULL
    trials = Search(size.num_trials, 1, 0.0, 1).trials()
    variants: dict[str, Callable[[int], Sample]] = {
        PLAIN_SQLITE: partial(_measured, by_plain_sqlite, trials),
        LINES: partial(_measured, by_lines, trials),
        OURS: partial(_measured, by_ours, trials),
    }
    samples = interleave(variants, size.num_rounds, num_warmups=0 if smoke else 1)
    goals = () if smoke else (Goal("wall_ms_per_transition", 2.0, PLAIN_SQLITE),)
    rates = ", ".join(f"{name} {_rate(rounds):,.0f}" for name, rounds in samples.items())
    facts = (
        f"Durable transitions a second: {rates}.",
        "Each variant was read back in every round: it held every trial as ended.",
    )
    return Report(
        variants={
            PLAIN_SQLITE: "`sqlite3.connect` and no PRAGMA: a rollback journal, synchronous=FULL; "
            "a row of the trial and an event in one transaction",
            LINES: "a line appended and flushed with `os.fsync`; no states, nothing to query",
            OURS: "`Journal.record`: write-ahead log, synchronous=FULL, the same row and event",
        },
        settings={
            "transitions": f"{2 * size.num_trials}: each trial starts, then ends",
            "durable": "every transition by itself, before the next begins",
            "files": "new in each round, in the system's temporary folder",
            "rounds": str(size.num_rounds),
        },
        cases=(Case(f"{2 * size.num_trials} transitions", samples, facts, goals),),
    )


def transitions(trials: list[Trial]) -> Iterator[Transition]:
    """Yield what happens to trials that run one after the other."""
    for trial in trials:
        attempt = {"attempt": f"a0001-{trial.key[:8]}"}
        yield Transition(trial.key, TrialState.RUNNING, "started", payload=attempt)
        yield Transition(trial.key, TrialState.SUCCEEDED, "succeeded", "", 1.0, attempt)


def by_ours(folder: Path, trials: list[Trial]) -> tuple[int, Sample]:
    """Write all transitions with our journal; return how many trials have ended, and the cost."""
    info = SweepInfo("journal_rate", "0" * 64, "")
    with Journal.open(folder / "journal.db", info, time.time()) as journal:
        journal.rebuild(TrialGraph(trials), Store(str(folder / "store")), time.time())

        def write() -> None:
            for change in transitions(trials):
                journal.record([change], time.time())

        _, sample = timed(write)
        return journal.counts()[TrialState.SUCCEEDED], sample


def by_plain_sqlite(folder: Path, trials: list[Trial]) -> tuple[int, Sample]:
    """Write all transitions with SQLite's own settings."""
    with closing(sqlite3.connect(folder / "plain.db")) as database:
        database.executescript(_TABLES)
        rows = [(trial.key, TrialState.PENDING, 0, None, 0.0) for trial in trials]
        with database:
            database.executemany("INSERT INTO trial VALUES (?, ?, ?, ?, ?)", rows)

        def write() -> None:
            for change in transitions(trials):
                with database:
                    _write_row(database, change)

        _, sample = timed(write)
        counted = "SELECT COUNT(*) FROM trial WHERE state = 'SUCCEEDED'"
        return int(database.execute(counted).fetchone()[0]), sample


def by_lines(folder: Path, trials: list[Trial]) -> tuple[int, Sample]:
    """Append all transitions to a file, one line each."""
    path = folder / "events.jsonl"

    def write() -> None:
        with path.open("a") as file:
            for change in transitions(trials):
                line = {"at": time.time(), "key": change.key, "state": change.state}
                file.write(json.dumps(line | dict(change.payload)) + "\n")
                file.flush()
                os.fsync(file.fileno())

    _, sample = timed(write)
    states = {line["key"]: line["state"] for line in map(json.loads, path.open())}
    return sum(state == TrialState.SUCCEEDED for state in states.values()), sample


def _write_row(database: sqlite3.Connection, change: Transition) -> None:
    now = time.time()
    database.execute(
        "INSERT INTO event (at, key, kind, payload) VALUES (?, ?, ?, ?)",
        (now, change.key, change.event, json.dumps(dict(change.payload))),
    )
    database.execute(
        "UPDATE trial SET state = ?, attempts = attempts + ?, seconds = ?, at = ? WHERE key = ?",
        (change.state, change.event == "started", change.seconds, now, change.key),
    )


def _rate(rounds: Sequence[Sample]) -> float:
    return 1e3 / statistics.median(sample["wall_ms_per_transition"] for sample in rounds)


def _measured(
    write: Callable[[Path, list[Trial]], tuple[int, Sample]], trials: list[Trial], _number: int
) -> Sample:
    with tempfile.TemporaryDirectory() as folder:
        num_ended, seconds = write(Path(folder), trials)
    assert num_ended == len(trials), f"{num_ended} of {len(trials)} trials were read back"
    return {
        f"{kind}_ms_per_transition": 1e3 * seconds[f"{kind}_s"] / (2 * len(trials))
        for kind in ("wall", "cpu")
    }
