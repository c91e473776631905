"""A small sweep whose scores are made up: two levels, three seeds, and controls."""

from __future__ import annotations

from search_spaces.contracts import SplitScore, TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Role, Trial
from tests.orchestrator.factories import make_result, make_trial

SEEDS = (1, 2, 3)


def make_sweep(**changes: object) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "small",
            "models": [{"name": "tiny", "source": "tiny"}],
            "tasks": [{"name": "toy", "source": {"kind": "builtin"}}],
            "seeds": list(SEEDS),
            "schedule": {"kind": "geometric", "rate": 0.1, "rounds": 2},
            "recipe": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-4},
            **changes,
        }
    )


def judged_trial(kind: str, seed: int, num_removed: int, method: str) -> Trial:
    trial = make_trial(seed, "a" * 64 if num_removed else None, num_removed, kind=kind)
    if kind == "control":  # another mask, so another key
        trial = make_trial(seed, "b" * 64, num_removed, kind=kind)
    role = Role.model_validate({**trial.roles[0].model_dump(), "method": method})
    return trial.model_copy(update={"roles": (role,)})


def scored(trial: Trial, select: float, report: float) -> TrialResult:
    scores = {
        name: SplitScore(metrics={"accuracy": value}, num_examples=100, constant_predictor=False)
        for name, value in (("select", select), ("report", report))
    }
    return make_result(trial, "a1").model_copy(update={"scores": scores})


def small_world() -> tuple[list[Trial], dict[str, TrialResult]]:
    """Dense 0.8; at 10% the ticket equals it on select, at 20% it loses 0.3; controls 0.5."""
    trials, results = [], {}
    plan = [("dense", 0, "", 0.8), ("final", 100, "imp", 0.8), ("final", 200, "imp", 0.5)]
    plan += [("control", k, "random-uniform", 0.5) for k in (100, 200)]
    for kind, removed, method, score in plan:
        for seed in SEEDS:
            trial = judged_trial(kind, seed, removed, method)
            trials.append(trial)
            results[trial.key] = scored(trial, score + seed / 100, score - 0.1 + seed / 100)
    return trials, results
