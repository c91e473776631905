"""What a run does when it finds nothing left to run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import store_patience
from orchestrator.finishing import gathered, settle
from orchestrator.graph import TrialGraph
from orchestrator.inbox import Command, Inbox
from orchestrator.journal import Journal, Transition
from orchestrator.journal_reader import open_reader
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from search_spaces.contracts import TrialState
from search_spaces.errors import StoreLostError
from tests.orchestrator.factories import finish, make_lineage
from tests.orchestrator.simulated import FakeClock
from tests.orchestrator.small_worlds import make_sweep
from tests.orchestrator.weather import Weather, break_storage

TRIALS = make_lineage(num_rounds=3)


@pytest.fixture
def context(tmp_path: Path) -> SweepContext:
    return SweepContext(make_sweep(store=str(tmp_path / "store")), {}, {}, tuple(TRIALS))


def die_while_running(context: SweepContext) -> Store:
    """Leave the journal of a driver that died with its first trial under way."""
    store = Store(context.spec.store)
    with Journal.open(context.journal_path, context.info, now=1.0) as journal:
        journal.rebuild(TrialGraph(TRIALS), store, now=1.0)
        journal.record([Transition(TRIALS[0].key, TrialState.RUNNING, "started")], 2.0)
    return store


def states(context: SweepContext) -> list[TrialState]:
    with open_reader(context.journal_path) as reader:
        return [row.state for row in reader.trials()]


def num_events(context: SweepContext) -> int:
    with open_reader(context.journal_path) as reader:
        return reader.last_event_id()


def test_a_result_that_was_committed_but_never_journaled_is_found(context: SweepContext) -> None:
    """Else the trial would be RUNNING for ever: nothing is left for which a driver would start."""
    store = die_while_running(context)
    for trial in TRIALS:
        store.commit(finish(store.uri, trial, "a1"), trial.spec)
    settle(context, store)
    assert states(context) == [TrialState.SUCCEEDED] * 3
    num = num_events(context)
    settle(context, store)
    assert num_events(context) == num, "a settled journal is left alone"


def test_what_was_cancelled_stays_cancelled(context: SweepContext) -> None:
    """The driver died between looking into the store and giving up again what people gave up."""
    store = die_while_running(context)
    store.commit(finish(store.uri, TRIALS[0], "a1"), TRIALS[0].spec)
    Inbox(context.journal_path).put(Command.new("cancel", (TRIALS[1].key,)))
    for _ in range(2):
        settle(context, store)
        assert states(context) == [TrialState.SUCCEEDED, *[TrialState.CANCELLED] * 2]
        with Journal.open(context.journal_path, context.info, now=3.0) as journal:
            journal.rebuild(TrialGraph(TRIALS), store, now=3.0)


def test_a_journal_that_another_process_writes_is_left_to_it(context: SweepContext) -> None:
    """That one tells how the sweep ends; without a journal there is nothing to settle."""
    store = Store(context.spec.store)
    settle(context, store)
    assert not context.journal_path.exists()
    die_while_running(context)
    with Journal.open(context.journal_path, context.info, now=3.0):
        num = num_events(context)
        settle(context, store)
        assert num_events(context) == num


def test_results_are_gathered_with_patience(
    context: SweepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose trials have ended waits for the store as long as in the middle."""
    monkeypatch.setattr(store_patience, "_LOOK_EVERY_S", 0.02)
    retries = context.spec.retries.model_copy(update={"store_s": 0.01})
    impatient = replace(context, spec=context.spec.model_copy(update={"retries": retries}))
    store, said = Store(context.spec.store), list[str]()
    with monkeypatch.context() as patch:
        break_storage(patch, Weather(FakeClock(), lambda now: True))
        with pytest.raises(StoreLostError, match=r"has not answered for .*retries\.store_s"):
            gathered(impatient, store, said.append)
    assert len(said) == 1 and "All trials have ended" in said[0]
    assert gathered(impatient, store, said.append) == ({}, {})
