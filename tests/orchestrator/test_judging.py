"""Judged curves: which trials meet, what a missing one means, and what a verdict reads."""

from __future__ import annotations

from orchestrator.judging import judge_sweep
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


def test_a_curve_is_judged_on_both_splits_and_against_controls() -> None:
    """Ticket and dense pair on the seed; each split has its own scores; controls are paired."""
    trials, results = small_world()
    select, report = judge_sweep(make_sweep(controls=["random-uniform"]), trials, results)
    assert (select.split, report.split) == ("select", "report")
    assert [level.num_removed for level in select.levels] == [100, 200]
    assert select.levels[0].ticket == {1: 0.81, 2: 0.8200000000000001, 3: 0.8300000000000001}
    assert select.curve.rules["noninferior"].sparsest_contiguous == 0.1
    assert select.curve.levels[1].outcomes["noninferior"] == "not_matching"
    assert [c.beats for c in select.controls["random-uniform"]] == [True, False]
    assert report.levels[0].ticket[1] == 0.8 - 0.1 + 0.01
    finals = {
        t.roles[0].seed: t.key for t in trials if t.kind == "final" and t.spec.num_removed == 100
    }
    assert select.trial_keys[0] == finals


def test_a_failed_final_leaves_its_level_undecided() -> None:
    """A seed without a result scores None and is never dropped."""
    trials, results = small_world()
    lost = next(t for t in trials if t.kind == "final" and t.spec.num_removed == 100)
    del results[lost.key]
    select = judge_sweep(make_sweep(), trials, results)[0]
    assert select.levels[0].ticket[1] is None
    assert select.curve.levels[0].outcomes["strict"] == "undecided"


def test_a_level_that_nobody_ran_is_unknown_and_one_that_failed_is_not() -> None:
    """Without any result a level is left out, unless its trials failed."""
    trials, results = small_world()
    sparse = [t.key for t in trials if t.kind == "final" and t.spec.num_removed == 200]
    for key in sparse:
        del results[key]
    assert [len(j.levels) for j in judge_sweep(make_sweep(), trials, results)] == [1, 1]
    failed = judge_sweep(make_sweep(), trials, results, failed=sparse)[0]
    assert failed.curve.levels[1].outcomes["noninferior"] == "undecided"


def test_a_level_without_results_is_never_jumped_over() -> None:
    """Below a level with results it is undecided, whether or not its failures are remembered."""
    trials, results = small_world()
    lost = [t.key for t in trials if t.kind == "final" and t.spec.num_removed == 100]
    for key in lost:
        del results[key]
    for failed in ([], lost):
        select = judge_sweep(make_sweep(), trials, results, failed=failed)[0]
        assert [level.sparsity for level in select.levels] == [0.1, 0.2]
        assert select.curve.levels[0].outcomes["noninferior"] == "undecided"
        assert select.curve.rules["noninferior"].sparsest_contiguous is None


def test_a_seed_that_never_started_is_not_dropped() -> None:
    """Where a cancel kept one seed from ticket and dense alike, the others do not decide."""
    trials, results = small_world()
    started = [trial for trial in trials if trial.roles[0].seed != 3]
    select = judge_sweep(make_sweep(), started, results)[0]
    assert select.levels[0].dense[3] is None
    assert select.curve.levels[0].outcomes["strict"] == "undecided"
