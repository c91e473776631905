"""A whole journal beside its store, how it is altered, and what a rebuilt one leaves aside."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, SweepInfo, Transition
from orchestrator.store import Store
from search_spaces.contracts import TrialState
from tests.orchestrator.factories import finish, make_lineage

SWEEP = SweepInfo(name="toy", sweep_hash="h1", spec_yaml="name: toy\n")
LINEAGE = make_lineage(num_rounds=3)
GRAPH = TrialGraph(LINEAGE)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Holds the first two of three trials."""
    store = Store(str(tmp_path / "store"))
    for trial in LINEAGE[:2]:
        store.commit(finish(store.uri, trial, "a1"), trial.spec)
    return store


def live(journal: Journal, store: Store) -> None:
    """Write what a run writes: rows, states, events."""
    journal.rebuild(GRAPH, store, now=1.0)
    for number in range(4):
        key = LINEAGE[2].key
        journal.record([Transition(key, TrialState.RUNNING, "started")], now=2.0 + number)
        journal.record([Transition(key, TrialState.FAILED, "failed", "broke" * 40)], now=3.0)


@pytest.fixture
def path(tmp_path: Path, store: Store) -> Path:
    """A whole journal, closed."""
    path = tmp_path / "toy.sqlite"
    with Journal.open(path, SWEEP, now=1.0) as journal:
        live(journal, store)
    return path


def asides(path: Path) -> list[Path]:
    found = path.parent.glob(f"{path.name}.damaged-*")
    return [file for file in found if not file.name.endswith(("-wal", "-shm", "-journal"))]


def alter(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()
