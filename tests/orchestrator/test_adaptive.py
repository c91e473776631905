"""Cells that are clearly lost after one seed are stopped, and shown as stopped (rule 20)."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.plan import make_plan
from orchestrator.store import Store
from orchestrator.transfer_judging import judge_transfers, lost_trials
from search_spaces.contracts import TrialState
from search_spaces.trial import Trial
from tests.orchestrator.transfer_worlds import run, world


def label(trials: list[Trial], key: str) -> str:
    return next(trial.main_role.label for trial in trials if trial.key == key)


def test_only_the_lost_cells_other_seeds_are_skipped() -> None:
    """b on a loses .3 and stops after seed 1; losses within the margin run to the end."""
    spec, trials = world()
    scheduler, results = run(spec, trials)
    skipped = [t.main_role.label for t in trials if scheduler.state(t.key) is TrialState.SKIPPED]
    assert sorted(skipped) == ["transfer:b>a:imp:0.5:s2", "transfer:b>a:imp:0.5:s3"]
    assert len(results) == len(trials) - 2


def test_the_table_shows_it_with_one_seed_and_out_of_averages() -> None:
    spec, trials = world()
    _, results = run(spec, trials)
    select, report = judge_transfers(spec, trials, results)
    assert (select.split, report.split) == ("select", "report")
    for table in (select, report):
        lost = table.matrix.cells["b", "a"]
        assert (lost.state, lost.n, lost.dark) == ("lost_futility", 1, None)
        assert table.matrix.cells["theta0", "a"].dark is True
        assert table.matrix.cells["a", "b"].dark is False
        assert table.matrix.cells["a", "a"].state == "diagonal"
        assert table.matrix.counts["theta0"].num_dark == 1
    assert select.num_removed == 500


def test_stopping_changes_no_dark_cell() -> None:
    """The same verdicts as with all seeds, in fewer runs."""
    spec, trials = world()
    _, results = run(spec, trials)
    whole, every = world(adaptive=False)
    _, all_results = run(whole, every)
    adaptive = judge_transfers(spec, trials, results)[0].matrix
    complete = judge_transfers(whole, every, all_results)[0].matrix
    assert len(results) < len(all_results)
    for pair, cell in complete.cells.items():
        assert bool(adaptive.cells[pair].dark) == bool(cell.dark)


def test_nothing_is_stopped_unless_asked() -> None:
    spec, trials = world(adaptive=False)
    _, results = run(spec, trials)
    assert len(results) == len(trials)
    assert lost_trials(spec, trials, results.get) == {}


def test_a_plan_of_a_finished_table_has_nothing_to_run(tmp_path: Path) -> None:
    """What was stopped is skipped again, with the reason."""
    spec, trials = world()
    _, results = run(spec, trials)
    skipped = lost_trials(spec, trials, results.get)
    assert {label(trials, key) for key in skipped} == {
        "transfer:b>a:imp:0.5:s2",
        "transfer:b>a:imp:0.5:s3",
    }
    plan = make_plan(trials, Store(str(tmp_path)), skipped=skipped)
    rows = {row.key: row for row in plan.rows}
    assert plan.num_skip == 2
    for key in skipped:
        assert (rows[key].action, rows[key].reason) == (
            "skip",
            "b on a is clearly lost after one seed",
        )


@pytest.mark.parametrize("missing", ["final:a:imp:0.5:s3", "transfer:b>a:imp:0.5:s1"])
def test_nothing_is_decided_before_all_that_decide_are_in(missing: str) -> None:
    spec, trials = world()
    _, results = run(spec, trials)
    known = {key: one for key, one in results.items() if label(trials, key) != missing}
    assert lost_trials(spec, trials, known.get) == {}
