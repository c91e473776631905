"""A run rebuilds a damaged journal before it reads it, and never another process's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.journal import Journal
from orchestrator.journal_file import BrokenJournalError
from orchestrator.mending import mended
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from search_spaces.errors import UserError
from search_spaces.loading import parse_sweep
from tests.orchestrator.journals import LINEAGE, SWEEP, alter, asides, path, store

__all__ = ["path", "store"]  # fixtures
SPEC = """
name: toy
models: [{name: tiny, source: model}]
tasks: [{name: toy, source: {kind: files, train: train.jsonl, report: dev.jsonl}}]
seeds: [1, 2, 3]
schedule: {kind: levels, levels: [0.3, 0.5]}
recipe: {epochs: 1, learning_rate: 1.0e-3}
store: STORE
"""


def test_a_run_mends_what_it_would_stumble_over(path: Path, store: Store) -> None:
    """It reads the journal before it opens it: then it is rebuilt first, and looked at again."""
    text = SPEC.replace("STORE", str(path.parent / "store"))
    context = SweepContext(parse_sweep(text), {}, {}, tuple(LINEAGE))
    context.journal_path.parent.mkdir()
    shutil.copy(path, context.journal_path)
    assert mended(context, store, lambda: 7) == 7 and not asides(context.journal_path)
    alter(context.journal_path, "UPDATE event SET payload = '[half'")

    def look() -> list[str]:
        with Journal.read_only(context.journal_path) as reader:
            reader.events()
            return [row.state.value for row in reader.trials()]

    assert mended(context, store, look) == ["SUCCEEDED"] * 2 + ["PENDING"]
    assert len(asides(context.journal_path)) == 1


def test_what_another_process_writes_is_not_mended(path: Path, store: Store) -> None:
    """Whoever asks is told who runs the sweep."""
    context = SweepContext(
        parse_sweep(SPEC.replace("STORE", str(path.parent / "s"))), {}, {}, tuple(LINEAGE)
    )

    def look() -> None:
        raise BrokenJournalError("it is cut")

    with (
        Journal.open(context.journal_path, SWEEP, now=9.0),
        pytest.raises(UserError, match="this sweep is being run by process"),
    ):
        mended(context, store, look)
