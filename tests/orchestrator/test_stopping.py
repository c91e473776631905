"""The policy stop-at-failure ends a curve after two failing levels, and nothing else (rule 17)."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.choices import left_out, policy_of
from orchestrator.graph import TrialGraph
from orchestrator.judging import judge_sweep
from orchestrator.scheduler import Scheduler
from search_spaces.contracts import SplitScore, TrialResult, TrialState
from search_spaces.expand import expand
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial
from tests.orchestrator.factories import make_result
from tests.search_spaces.makers import model_facts, sweep, task_facts

LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
Scores = dict[float, float]  # of imp, by level; the dense network has .8


def world(**changes: Any) -> tuple[SweepSpec, list[Trial]]:
    """A ladder of six levels with a control."""
    settings: dict[str, Any] = {
        "policy": "stop-at-failure",
        "schedule": {"kind": "levels", "levels": LEVELS},
        "controls": ["random-uniform"],
    }
    spec = sweep(**{**settings, **changes})
    facts = {task.name: task_facts(task.name) for task in spec.tasks}
    return spec, expand(spec, {"tiny": model_facts("m")}, facts)


def result_of(trial: Trial, scores: Scores) -> TrialResult:
    role = trial.main_role
    value = scores[round(role.sparsity, 3)] if role.kind == "final" else 0.8
    split = SplitScore(metrics={"accuracy": value}, num_examples=100, constant_predictor=False)
    update = {"scores": {"select": split, "report": split}}
    return make_result(trial, "a1").model_copy(update=update)


def run(
    spec: SweepSpec, trials: list[Trial], scores: Scores
) -> tuple[Scheduler, dict[str, TrialResult]]:
    """Run all trials in the scheduler's order, one at a time."""
    results: dict[str, TrialResult] = {}
    graph = TrialGraph(trials)
    scheduler, policy = Scheduler(graph, {}), policy_of(spec, trials, results.get)
    while not scheduler.is_finished:
        (key,) = scheduler.ready(0.0, 1)
        scheduler.start(key, "a1")
        results[key] = result_of(graph[key], scores)
        scheduler.succeed(key)
        events = policy.on_result(graph, scheduler, graph[key], results[key])
        assert policy.heeds(key) or not events
        for event in events:
            if scheduler.state(event.key) is TrialState.PENDING:
                scheduler.skip(event.key, event.reason)
    return scheduler, results


def judged_levels(results: dict[str, TrialResult], trials: list[Trial]) -> set[float]:
    finals = [t for t in trials if t.main_role.kind == "final" and t.key in results]
    return {round(trial.main_role.sparsity, 3) for trial in finals}


def test_two_failures_in_a_row_end_the_curve() -> None:
    """The sweep's headline is the one that the whole ladder gives."""
    scores = dict(zip(LEVELS, [0.8, 0.8, 0.5, 0.5, 0.8, 0.8], strict=True))
    spec, trials = world()
    scheduler, results = run(spec, trials, scores)
    assert judged_levels(results, trials) == {0.1, 0.2, 0.3, 0.4}
    skipped = {t.key for t in trials if scheduler.state(t.key) is TrialState.SKIPPED}
    assert skipped == set(left_out(spec, trials, results.get))
    assert {trials[0].key} & skipped == set()
    select = judge_sweep(spec, trials, results)[0]
    assert abs((select.curve.rules["noninferior"].sparsest_contiguous or 0) - 0.2) < 1e-9


def test_one_failure_alone_does_not() -> None:
    scores = dict(zip(LEVELS, [0.8, 0.5, 0.8, 0.5, 0.8, 0.5], strict=True))
    spec, trials = world()
    assert len(run(spec, trials, scores)[1]) == len(trials)


def test_the_ladder_runs_by_default() -> None:
    """Verdicts do not end lineages unless that is asked for."""
    spec, trials = world(policy="ladder")
    assert len(run(spec, trials, dict.fromkeys(LEVELS, 0.1))[1]) == len(trials)


def test_a_failed_seed_stops_nothing() -> None:
    """A level that is undecided has not failed (method rule 18)."""
    spec, trials = world()
    _, results = run(spec, trials, dict.fromkeys(LEVELS, 0.1))
    lost = next(k for k, r in results.items() if r.scores["select"].metrics["accuracy"] == 0.1)
    known = {key: result for key, result in results.items() if key != lost}
    assert left_out(spec, trials, known.get) == {}


def test_another_methods_trials_stay() -> None:
    """imp fails; one-shot-theta0, which has the same scores but its own curve, goes on."""
    spec, trials = world(methods=["imp", "one-shot-theta0"])
    scores = dict.fromkeys(LEVELS, 0.1)
    _, results = run(spec, trials, scores)
    reasons = set(left_out(spec, trials, results.get).values())
    assert reasons == {
        "rte imp: 2 levels in a row failed",
        "rte one-shot-theta0: 2 levels in a row failed",
    }


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([0.5, 0.8]), min_size=6, max_size=6))
def test_what_is_judged_ends_with_the_second_failure_or_the_ladder(values: list[float]) -> None:
    """For every pattern of failures."""
    spec, trials = world()
    _, results = run(spec, trials, dict(zip(LEVELS, values, strict=True)))
    fails = [value == 0.5 for value in values]
    last = next((i for i in range(1, 6) if fails[i] and fails[i - 1]), 5)
    assert judged_levels(results, trials) == set(LEVELS[: last + 1])
