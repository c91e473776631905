"""The scheduler's state machine."""

from __future__ import annotations

import random

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.graph import MissingParentError, TrialGraph
from orchestrator.retries import Cause, RetryRules
from orchestrator.scheduler import Scheduler, SchedulerError
from search_spaces.contracts import FailureClass, TrialState
from tests.orchestrator.dags import as_networkx, dags
from tests.orchestrator.factories import make_dag, make_lineage, make_trial

FAILURES = list(FailureClass)
BUDGETS = {FailureClass.ERROR: 1, FailureClass.INFRASTRUCTURE: 2}


def drive(trials, rng, num_slots=2, fail_rate=0.0, budgets=BUDGETS):
    """Run all trials on a simulated clock and return the scheduler with the list of starts."""
    scheduler = Scheduler(TrialGraph(trials), budgets)
    now, running, starts = 0.0, [], []
    while not scheduler.is_finished:
        for key in scheduler.ready(now, num_slots - len(running)):
            scheduler.start(key, f"a{len(starts)}")
            starts.append((now, key))
            running.append(key)
        if running:
            key = running.pop(rng.randrange(len(running)))
            now += 1
            if rng.random() < fail_rate:
                scheduler.fail(key, rng.choice(FAILURES), "broke", now)
            else:
                scheduler.succeed(key)
        else:
            now += scheduler.next_wakeup(now)
    return scheduler, starts


@given(dags(), st.randoms(use_true_random=False), st.integers(1, 4))
def test_every_trial_runs_once_after_its_parents(choices, rng, num_slots):
    """Without failures all trials succeed, each started once and never before a parent's start."""
    trials = make_dag(choices)
    scheduler, starts = drive(trials, rng, num_slots)
    keys = [key for _, key in starts]
    assert sorted(keys) == sorted(trial.key for trial in trials)
    assert scheduler.counts()[TrialState.SUCCEEDED] == len(trials)
    time_of = {key: now for now, key in starts}
    for trial in trials:
        assert all(time_of[parent] < time_of[trial.key] for parent in trial.spec.parents)


@given(dags(), st.randoms(use_true_random=False))
def test_exactly_the_descendants_of_failed_trials_are_blocked(choices, rng):
    """Each blocked trial has a failed ancestor as its cause; everything else succeeds."""
    trials = make_dag(choices)
    scheduler, starts = drive(trials, rng, fail_rate=0.3)
    reference = as_networkx(trials)
    failed = [t.key for t in trials if scheduler.state(t.key) is TrialState.FAILED]
    below = set().union(*(networkx.descendants(reference, key) for key in failed))
    assert not below & {key for _, key in starts}
    for trial in trials:
        state = scheduler.state(trial.key)
        if trial.key in below:
            assert state is TrialState.BLOCKED
            cause = scheduler.cause(trial.key)
            assert cause.key in failed
            assert cause == scheduler.cause(cause.key)
            assert trial.key in networkx.descendants(reference, cause.key)
        else:
            assert state in (TrialState.SUCCEEDED, TrialState.FAILED)
    assert scheduler.counts() == {
        state: sum(scheduler.state(t.key) is state for t in trials) for state in TrialState
    }


@given(dags(), st.integers(0, 2**32))
def test_the_same_answers_give_the_same_starts(choices, seed):
    """The scheduler is deterministic."""
    trials = make_dag(choices)
    first = drive(trials, random.Random(seed), fail_rate=0.3)[1]
    assert first == drive(trials, random.Random(seed), fail_rate=0.3)[1]


@given(dags())
def test_adding_trials_gives_the_order_of_knowing_them(choices):
    """A grown scheduler orders ready trials like one that knew all trials from the start."""
    trials = make_dag(choices)
    whole, grown = Scheduler(TrialGraph(trials)), Scheduler(TrialGraph())
    for trial in trials:
        grown.add(trial)
    while not whole.is_finished:
        assert grown.ready(0) == whole.ready(0)
        key = whole.ready(0)[0]
        for scheduler in (whole, grown):
            scheduler.start(key, "a1")
            scheduler.succeed(key)
    assert grown.is_finished


def test_the_longest_remaining_chain_goes_first():
    """A long chain precedes a short one that was given before; equals keep their order."""
    short_chain, long_chain = make_lineage(1, 2), make_lineage(2, 4)
    single = [make_trial(seed=3), make_trial(seed=4)]
    scheduler = Scheduler(TrialGraph([*single, *short_chain, *long_chain]))
    expected = [long_chain[0].key, short_chain[0].key, single[0].key, single[1].key]
    assert scheduler.ready(0) == expected
    assert scheduler.ready(0, limit=2) == expected[:2]


def test_a_chain_is_measured_in_work():
    """One trial of 1000 steps precedes a chain of three with 10 steps each."""
    heavy = make_trial(seed=9, train_steps=1000)
    light = make_lineage(1, 3)
    scheduler = Scheduler(TrialGraph([*light, heavy]))
    assert scheduler.ready(0) == [heavy.key, light[0].key]


def test_infrastructure_failures_wait_longer_each_time():
    """Back-off doubles from its base and ends with the budget; other trials go on meanwhile."""
    first, other = make_trial(seed=1), make_trial(seed=2)
    budgets = {FailureClass.INFRASTRUCTURE: 2}
    scheduler = Scheduler(TrialGraph([first, other]), budgets, RetryRules(base_s=5.0, jitter=0.0))
    now = 100.0
    for wait_s in (5.0, 10.0):
        scheduler.start(first.key, "a")
        decision = scheduler.fail(first.key, FailureClass.INFRASTRUCTURE, "node died", now)
        assert (decision.will_retry, decision.not_before) == (True, now + wait_s)
        assert scheduler.ready(now) == [other.key]
        assert scheduler.next_wakeup(now) == wait_s
        now += wait_s
        assert set(scheduler.ready(now)) == {first.key, other.key}
        assert scheduler.next_wakeup(now) is None
    scheduler.start(first.key, "a")
    assert not scheduler.fail(first.key, FailureClass.INFRASTRUCTURE, "node died", now).will_retry
    assert scheduler.state(first.key) is TrialState.FAILED
    assert scheduler.cause(first.key) == Cause(first.key, FailureClass.INFRASTRUCTURE, "node died")


def test_each_class_has_its_own_budget():
    """A preempted trial keeps its retry for another class of failure."""
    trial = make_trial()
    scheduler = Scheduler(TrialGraph([trial]), BUDGETS)
    decisions = []
    for failure in [FailureClass.INFRASTRUCTURE] * 2 + [FailureClass.ERROR] * 2:
        scheduler.ready(1e9)
        scheduler.start(trial.key, "a")
        decisions.append(scheduler.fail(trial.key, failure, "broke", 0.0).will_retry)
    assert decisions == [True, True, True, False]


def test_a_user_error_is_never_retried():
    """Not even where a budget names it."""
    trial, child = make_lineage(num_rounds=2)
    scheduler = Scheduler(TrialGraph([trial, child]), {FailureClass.USER_ERROR: 9})
    scheduler.start(trial.key, "a")
    decision = scheduler.fail(trial.key, FailureClass.USER_ERROR, "no such file", 0.0)
    assert not decision.will_retry
    assert decision.blocked == (child.key,)


def test_reused_trials_release_their_children():
    """A stored result counts as success, and a reused child survives its parent's failure."""
    first, second, third = make_lineage(num_rounds=3)
    scheduler = Scheduler(TrialGraph([first, second, third]))
    scheduler.reuse(second.key)
    assert set(scheduler.ready(0)) == {first.key, third.key}
    scheduler.start(first.key, "a")
    assert scheduler.fail(first.key, FailureClass.USER_ERROR, "broke", 0).blocked == ()
    scheduler.start(third.key, "a")
    scheduler.succeed(third.key)
    assert scheduler.is_finished


def test_skipping_takes_what_waits_for_it():
    """The rest of a lineage is skipped with the reason; other lineages go on."""
    lineage, other = make_lineage(1, 4), make_lineage(2, 2)
    scheduler = Scheduler(TrialGraph([*lineage, *other]))
    scheduler.reuse(lineage[0].key)
    skipped = scheduler.skip(lineage[1].key, "lost twice")
    assert skipped == tuple(trial.key for trial in lineage[1:])
    assert scheduler.state(lineage[3].key) is TrialState.SKIPPED
    assert scheduler.cause(lineage[3].key) == Cause(lineage[1].key, None, "lost twice")
    assert scheduler.ready(0) == [other[0].key]


def test_a_retry_that_is_skipped_does_not_come_back():
    """Skipping a trial that waits for its back-off is final."""
    trial = make_trial()
    scheduler = Scheduler(TrialGraph([trial]))
    scheduler.start(trial.key, "a")
    scheduler.fail(trial.key, FailureClass.INFRASTRUCTURE, "node died", 0.0)
    scheduler.skip(trial.key, "no longer wanted")
    assert scheduler.next_wakeup(0.0) is None
    assert scheduler.ready(1e9) == []
    assert scheduler.is_finished


@pytest.mark.parametrize(
    ("failure", "state"), [("fail", TrialState.BLOCKED), ("skip", TrialState.SKIPPED)]
)
def test_a_trial_added_below_a_dead_one_is_dead(failure, state):
    """It gets the cause of its ancestor and never becomes ready."""
    first, second, third = make_lineage(num_rounds=3)
    scheduler = Scheduler(TrialGraph([first, second]))
    if failure == "fail":
        scheduler.start(first.key, "a")
        scheduler.fail(first.key, FailureClass.USER_ERROR, "broke", 0.0)
    else:
        scheduler.skip(first.key, "broke")
    scheduler.add(third)
    assert scheduler.state(third.key) is state
    assert scheduler.cause(third.key) == scheduler.cause(first.key)
    assert scheduler.is_finished


def test_cancelling_ends_what_is_open():
    """Running and pending trials are cancelled, finished ones keep their state."""
    first, second, third = make_lineage(num_rounds=3)
    scheduler = Scheduler(TrialGraph([first, second, third]))
    scheduler.reuse(first.key)
    scheduler.start(second.key, "a")
    assert scheduler.cancel() == (second.key, third.key)
    assert scheduler.counts()[TrialState.CANCELLED] == 2
    assert scheduler.is_finished


def test_impossible_events_are_refused():
    """What cannot have happened is an error, and changes nothing."""
    first, second = make_lineage(num_rounds=2)
    scheduler = Scheduler(TrialGraph([first, second]))
    with pytest.raises(SchedulerError, match="cannot start: it is PENDING and not ready"):
        scheduler.start(second.key, "a")
    with pytest.raises(SchedulerError, match="is PENDING and cannot succeed"):
        scheduler.succeed(first.key)
    with pytest.raises(SchedulerError, match="is PENDING and cannot fail"):
        scheduler.fail(first.key, FailureClass.ERROR, "broke", 0.0)
    scheduler.start(first.key, "a")
    with pytest.raises(SchedulerError, match="cannot start: it is RUNNING"):
        scheduler.start(first.key, "a")
    with pytest.raises(SchedulerError, match="is RUNNING and cannot be skipped"):
        scheduler.skip(first.key, "why not")
    with pytest.raises(SchedulerError, match="is RUNNING and cannot be reused"):
        scheduler.reuse(first.key)
    with pytest.raises(MissingParentError, match="not among the trials"):
        scheduler.add(make_trial(parent="nobody"))
    scheduler.succeed(first.key)
    assert scheduler.ready(0) == [second.key]
