"""Budgets and waits of retries: laws over any sequence of failures."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.graph import TrialGraph
from orchestrator.retries import (
    DEFAULT_BUDGETS,
    MENDED_BY_TIME,
    RetryRules,
    budgets_of,
)
from orchestrator.scheduler import Scheduler
from search_spaces.contracts import FailureClass, TrialState
from search_spaces.run_specs import RetriesSpec
from tests.orchestrator.factories import make_trial

RETRIED = [failure for failure in FailureClass if failure is not FailureClass.USER_ERROR]
RULES = RetryRules(base_s=2.0, limit_s=60.0, jitter=0.25)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({failure: st.integers(0, 3) for failure in RETRIED}),
    st.lists(st.sampled_from(list(FailureClass)), max_size=20),
)
def test_no_class_exceeds_its_budget_or_uses_another_s(
    budgets: dict[FailureClass, int], failures: list[FailureClass]
) -> None:
    """A trial fails for good exactly when one class alone has failed once more than its budget."""
    trial = make_trial()
    scheduler, counts, now = Scheduler(TrialGraph([trial]), budgets, RULES), Counter(), 0.0
    for failure in failures:
        now += scheduler.next_wakeup(now) or 0.0
        assert scheduler.ready(now) == [trial.key]
        scheduler.start(trial.key, "a")
        decision = scheduler.fail(trial.key, failure, "broke", now)
        counts[failure] += 1
        assert decision.will_retry is (counts[failure] <= budgets.get(failure, 0))
        if not decision.will_retry:
            assert scheduler.state(trial.key) is TrialState.FAILED
            assert scheduler.cause(trial.key).failure is failure
            return
        assert decision.not_before == now + RULES.wait_s(trial.key, failure, counts[failure])


@settings(deadline=None)
@given(
    st.text("0123456789abcdef", min_size=4, max_size=8),
    st.sampled_from(list(FailureClass)),
    st.integers(1, 3000),
)
def test_waits_double_within_their_bounds(key: str, failure: FailureClass, number: int) -> None:
    """base x 2^k, varied by the jitter, at most limit x (1 + jitter); the same each time."""
    wait_s = RULES.wait_s(key, failure, number)
    assert wait_s == RULES.wait_s(key, failure, number)
    if failure not in MENDED_BY_TIME:
        assert wait_s == 0.0
        return
    plain_s = min(RULES.limit_s, RULES.base_s * 2.0 ** min(number - 1, 50))
    assert plain_s * (1 - RULES.jitter) <= wait_s <= plain_s * (1 + RULES.jitter)
    assert wait_s <= RULES.limit_s * (1 + RULES.jitter)


def test_trials_that_fell_together_do_not_come_back_together() -> None:
    waits = [RULES.wait_s(f"{index:064x}", FailureClass.PREEMPTED, 1) for index in range(200)]
    assert len(set(waits)) == 200
    assert max(waits) - min(waits) > RULES.base_s * RULES.jitter  # half of all that is allowed
    assert sum(waits) / 200 == pytest.approx(RULES.base_s, rel=0.05)


def test_a_sweep_says_budgets_and_waits() -> None:
    """Every class but the user's error has a field of its own name."""
    spec = RetriesSpec(diverged="retry", preempted=7, backoff_s=1, backoff_limit_s=9, jitter=0)
    budgets = budgets_of(spec)
    assert set(budgets) == set(RETRIED)
    assert (budgets[FailureClass.DIVERGED], budgets[FailureClass.PREEMPTED]) == (1, 7)
    assert RetryRules.of(spec) == RetryRules(1, 9, 0)
    assert RetriesSpec(diverged="fail") == RetriesSpec()
    assert RetryRules.of(RetriesSpec()) == RetryRules()


def test_preemptions_have_a_large_budget_of_their_own() -> None:
    assert DEFAULT_BUDGETS[FailureClass.PREEMPTED] == 100
    assert all(num <= 3 for failure, num in DEFAULT_BUDGETS.items() if failure != "preempted")
