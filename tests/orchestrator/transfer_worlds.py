"""A small sweep with a transfer whose scores are made up, run to its end without processes."""

from __future__ import annotations

from typing import Any

from orchestrator.adaptive import AdaptiveTransfer
from orchestrator.graph import TrialGraph
from orchestrator.scheduler import Scheduler
from orchestrator.transfer_judging import SourceOverlaps
from search_spaces.contracts import SplitScore, TrialResult
from search_spaces.expand import expand
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial
from tests.orchestrator.factories import make_result
from tests.search_spaces.makers import model_facts, sweep, task_facts

# Source -> target: the score of seed 1; each further seed scores .01 more.
SCORES = {("b", "a"): 0.5, ("a", "b"): 0.79, ("theta0", "a"): 0.9, ("theta0", "b"): 0.79}
TASKS = [{"name": n, "source": {"kind": "glue-hub", "task": "rte"}} for n in ("a", "b")]
OVERLAPS = SourceOverlaps(
    "tiny", ("a", "b", "theta0"), ((1, 0.4, 0.5), (0.4, 1, None), (0.5, None, 1)), 1 / 3
)


def world(**changes: Any) -> tuple[SweepSpec, list[Trial]]:
    """A table of two tasks and theta_0 at one level."""
    transfer = {"sparsity": 0.5, "sources": ["a", "b", "theta0"], "adaptive": True, **changes}
    schedule = {"kind": "levels", "levels": [0.5]}
    spec = sweep(tasks=TASKS, transfer=transfer, schedule=schedule)
    facts = {name: task_facts(name) for name in ("a", "b")}
    return spec, expand(spec, {"tiny": model_facts("m")}, facts)


def result_of(trial: Trial) -> TrialResult:
    """Dense and own tickets score .8, cells as ``SCORES`` has it."""
    role = trial.main_role
    base = SCORES.get((role.source_task, role.task), 0.8) + (role.seed - 1) / 100
    scores = {
        split: SplitScore(metrics={"accuracy": base}, num_examples=100, constant_predictor=False)
        for split in ("select", "report")
    }
    return make_result(trial, "a1").model_copy(update={"scores": scores})


def run(spec: SweepSpec, trials: list[Trial]) -> tuple[Scheduler, dict[str, TrialResult]]:
    """Run all trials in the scheduler's order, one at a time."""
    results: dict[str, TrialResult] = {}
    graph = TrialGraph(trials)
    scheduler, policy = Scheduler(graph, {}), AdaptiveTransfer(spec, trials, results.get)
    while not scheduler.is_finished:
        (key,) = scheduler.ready(0.0, 1)
        scheduler.start(key, "a1")
        results[key] = result_of(graph[key])
        scheduler.succeed(key)
        events = policy.on_result(graph, scheduler, graph[key], results[key])
        assert policy.heeds(key) or not events
        for event in events:
            scheduler.skip(event.key, event.reason)
    return scheduler, results


def finished() -> tuple[SweepSpec, list[Trial], dict[str, TrialResult]]:
    """Two tasks and theta0: a on b is worse, b on a was stopped, theta0 on a is dark."""
    spec, trials = world()
    return spec, trials, run(spec, trials)[1]
