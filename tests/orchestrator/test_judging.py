"""Judged curves: which trials meet, what a missing one means, and what a verdict reads."""

from __future__ import annotations

from orchestrator.judging import judge_sweep
from tests.orchestrator.small_worlds import make_sweep, small_world


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
