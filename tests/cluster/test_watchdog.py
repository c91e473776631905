"""When an attempt counts as hanging."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.attempts import LatestProgress, ProgressPoint
from cluster.local_executor import LocalExecutor
from cluster.watchdog import MAX_COUNTED_S, Stall, Watchdog
from search_spaces.contracts import FailureClass
from search_spaces.run_specs import HangLimits
from tests.cluster.scripted import (
    ONE_RANK,
    answer_of,
    export_rank,
    make_request,
    scripted_trial,
    wait_all,
)

LIMITS = HangLimits(start=50, train=20, evaluate=30)
TRAIN = ProgressPoint("train", 3, 10, 0.5, 7)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 12), st.booleans()), max_size=30))
def test_only_time_without_progress_counts(looks: list[tuple[float, bool]]) -> None:
    """A stall is told exactly when the limit of the phase has passed since the last report."""
    watchdog, now, since, step = Watchdog(LIMITS, 0.0), 0.0, 0.0, 0
    watchdog.look(ProgressPoint("train"), now)
    for elapsed_s, reported in looks:
        now += elapsed_s
        step, since = (step + 1, now) if reported else (step, since)
        stall = watchdog.look(ProgressPoint("train", step), now)
        assert (stall is not None) is (now - since > LIMITS.train + 1e-9) or abs(
            now - since - LIMITS.train
        ) < 1e-6


def test_each_phase_has_its_limit_and_an_unknown_one_the_longest() -> None:
    assert [LIMITS.of(phase) for phase in ("train", "evaluate")] == [20, 30]
    assert LIMITS.of("polishing") == LIMITS.load == 3600


def test_the_same_report_again_is_progress() -> None:
    """Evaluation tells of every batch in the same words."""
    progress = LatestProgress()
    progress.phase("evaluate")
    first = progress.point
    progress.phase("evaluate")
    assert progress.point != first
    assert (progress.point.phase, progress.point.step) == (first.phase, first.step)


def test_a_pause_of_the_onlooker_is_not_held_against_the_trial() -> None:
    """While the orchestrator is suspended it sees nothing of what the trial does."""
    watchdog = Watchdog(LIMITS, 0.0)
    watchdog.look(TRAIN, 0.0)
    assert watchdog.look(TRAIN, 3600.0) is None
    stall = watchdog.look(TRAIN, 3600.0 + LIMITS.train - MAX_COUNTED_S + 1)
    assert stall is not None and stall.idle_s == LIMITS.train + 1


def test_message_says_phase_step_time_place_and_remedy() -> None:
    failure = Stall(TRAIN, 901.4, 900).failure("gang 3", "rank 0 (process 7)", "stacks")
    assert failure.failure is FailureClass.HANG
    assert failure.details == "stacks"
    assert failure.message == (
        "Gang 3 has made no progress for 901 s in phase train at step 3 of 10 (limit: 900 s, "
        "retries.hang_after_s.train) and was ended. See the end of its log: rank 0 (process 7). "
        "Look for a store or a network that does not answer, or for ranks that wait for each "
        "other; if the work is just slow, raise the limit."
    )
    loading = Stall(ProgressPoint("load"), 5, 4).text
    assert loading.startswith("has made no progress for 5 s in phase load (limit: 4 s")


def test_without_ray_the_log_tells_once_and_the_trial_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A thread cannot be ended: who waits is told what he can do, and may wait on."""
    executor = LocalExecutor(ONE_RANK, scripted_trial, export_rank, HangLimits(train=1))
    try:
        with caplog.at_level(logging.WARNING):
            request = make_request("stall:3", compute=ONE_RANK.with_micro_batch(2))
            executor.submit(request)
            [outcome] = wait_all(executor, 1)
    finally:
        executor.close()
    assert answer_of(outcome) is None
    [record] = caplog.records
    said = record.getMessage()
    assert f"Trial {request.spec.key[:10]} has made no progress for " in said
    assert "Without Ray it is a thread of this process, which cannot be ended alone" in said
