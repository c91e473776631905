"""The transfer table: dark cells, intervals and corrections, and the published counts."""

from __future__ import annotations

from decimal import Decimal

import pytest

from orchestrator.statistics import t_interval
from orchestrator.transfer import DarkCount, TransferScores, count_dark, is_dark, judge_transfer
from tests.orchestrator.transfer_tables import FIGURE2, Scored, cell_of, published, seeded, table


def test_published_counts_come_out_but_for_one_rounding_tie() -> None:
    """Figure 2's counts of dark cells, from its printed means.

    theta_0 -> SQuAD is printed as -2.83, as is SQuAD -> SQuAD, and drawn light: the unrounded
    means must have differed. Under >= the printed ones tie, so theta_0 has 5 and not 4.
    """
    printed = {row["source"]: row["count"] for row in FIGURE2["rows"]}
    assert list(printed.values()) == [2, 2, 1, 0, 2, 1, 1, 1, 1, 4, 10, 4]
    assert count_dark(published()) == printed | {"theta_0": 5}
    untied = published() | {("theta_0", "SQuAD"): Decimal("-2.8301")}
    assert count_dark(untied) == printed


def test_published_dark_cells_are_the_drawn_ones_but_for_that_tie() -> None:
    """Cell by cell, the diagonal included: the figure draws it dark."""
    means = published()
    ours = {pair for pair, mean in means.items() if is_dark(mean, means[pair[1], pair[1]])}
    drawn = {(row["source"], one) for row in FIGURE2["rows"] for one in row["printed_dark"]}
    assert ours - drawn == {("theta_0", "SQuAD")}
    assert drawn <= ours


def test_published_means_are_judged_as_one_score_each() -> None:
    """The whole table takes means as well: the same counts, and the differences to dense."""
    cells = {pair: seeded(mean) for pair, mean in published().items()}
    targets = tuple(FIGURE2["targets"])
    dense = {target: seeded(Decimal(0)) for target in targets}
    deltas = dict.fromkeys(targets, Decimal(1))
    judged = judge_transfer(TransferScores((*targets, "theta_0"), targets, cells, dense, deltas))
    assert judged.counts["theta_0"] == DarkCount(5, 11, 11)
    assert judged.counts["MLM"] == DarkCount(10, 10, 10)
    cell = judged.cells["CoLA", "CoLA"]
    assert (cell.state, cell.difference_dense) == ("diagonal", Decimal("-15.62"))
    assert (cell.std, cell.interval, cell.noninferior, cell.pvalue) == (None, None, None, None)


def test_a_target_without_its_own_mask_has_no_dark_cells() -> None:
    """There is nothing to be as good as, in means as in scores."""
    assert count_dark({("a", "b"): 0.9, ("c", "b"): 0.8}) == {"a": 0, "c": 0}
    cells = {("a", "b"): seeded(0.9, 0.9)}
    made = TransferScores(("a",), ("b",), cells, {}, {"b": 0.01})
    judged = judge_transfer(made)
    cell = judged.cells["a", "b"]
    assert (cell.state, cell.mean, cell.dark) == ("judged", 0.9, None)
    assert judged.counts["a"] == DarkCount(0, 0, 1)


def test_cells_by_hand() -> None:
    """Equal means are dark, a worse one is light, theta0 counts without a diagonal."""
    judged = judge_transfer(table())
    found = {pair: (cell.state, cell.n, cell.dark) for pair, cell in judged.cells.items()}
    assert found == {
        ("a", "a"): ("diagonal", 3, True),
        ("a", "b"): ("judged", 3, True),
        ("b", "a"): ("judged", 3, False),
        ("b", "b"): ("diagonal", 3, True),
        ("theta0", "a"): ("judged", 3, True),
        ("theta0", "b"): ("lost_futility", 1, None),
    }
    assert judged.counts == {
        "a": DarkCount(1, 1, 1),
        "b": DarkCount(0, 1, 1),
        "theta0": DarkCount(1, 2, 2),
    }
    assert judged.cells["b", "a"].difference_same_task == pytest.approx(-0.1)


def test_the_difference_to_dense_is_paired_and_has_its_interval() -> None:
    """0.82, 0.80, 0.81 against 0.83: -0.02 on the mean, deviation 0.01."""
    cell = cell_of(table(), "b", "b")
    assert [cell.mean, cell.std, cell.difference_dense, cell.difference_std] == pytest.approx(
        [0.81, 0.01, -0.02, 0.01]
    )
    assert cell.interval == pytest.approx(t_interval([-0.01, -0.03, -0.02]))
    assert cell.noninferior is False
    same = cell_of(table(), "a", "a")
    assert (same.difference_dense, same.noninferior, same.pvalue) == (0.0, True, 0.0)


def test_two_seeds_allow_a_dark_cell_but_no_interval() -> None:
    """Intervals and `noninferior` begin at three seeds, as they do for tickets."""
    cells = {("a", "a"): seeded(0.9, 0.8), ("b", "a"): seeded(0.9, 0.8)}
    made = table(cells=cells, dense={"a": seeded(0.9, 0.9)}, lost_futility=frozenset())
    cell = cell_of(made, "b", "a")
    assert (cell.dark, cell.n) == (True, 2)
    assert cell.difference_std == pytest.approx(0.1 / 2**0.5)
    assert (cell.interval, cell.noninferior, cell.pvalue, cell.pvalue_holm) == (None,) * 4


def test_a_stopped_cell_shows_its_seed_and_is_judged_on_nothing() -> None:
    """The score and its difference are there; no deviation, no verdict, no p-value."""
    cell = cell_of(table(), "theta0", "b")
    assert (cell.n, cell.mean, cell.std) == (1, 0.10, None)
    assert cell.difference_dense == pytest.approx(-0.73)
    assert (cell.dark, cell.noninferior, cell.pvalue) == (None, None, None)
    assert cell.difference_same_task is None


def test_a_stopped_cell_that_was_run_after_all_is_judged() -> None:
    """Another sweep may have run its other seeds."""
    cells = dict(table().cells) | {("theta0", "b"): seeded(0.1, 0.2, 0.1)}
    assert cell_of(table(cells=cells), "theta0", "b").state == "judged"


@pytest.mark.parametrize(
    ("scores", "state", "num"),
    [
        ({}, "not_run", 0),
        (seeded(None, None, None), "not_run", 0),
        (seeded(0.9, 0.9, None), "undecided", 2),
        (seeded(float("nan"), None, None), "undecided", 0),
    ],
    ids=["no trial", "no score", "one missing", "diverged"],
)
def test_a_missing_seed_is_told_apart_from_a_stopped_cell(
    scores: Scored, state: str, num: int
) -> None:
    """Nothing is averaged over the seeds that happen to be there."""
    cell = cell_of(table(cells=dict(table().cells) | {("a", "b"): scores}), "a", "b")
    assert (cell.state, cell.n, cell.mean, cell.dark) == (state, num, None, None)
    assert judge_transfer(table(cells={})).counts["a"] == DarkCount(0, 0, 1)


def test_unequal_seeds_are_neither_dark_nor_light() -> None:
    """Two good seeds do not stand against three; the mean is shown all the same."""
    cells = dict(table().cells) | {("a", "b"): {0: 0.99, 1: 0.99}}
    cell = cell_of(table(cells=cells), "a", "b")
    assert (cell.state, cell.mean, cell.dark, cell.difference_dense) == ("judged", 0.99, None, None)


def test_holm_runs_over_all_cells_off_the_diagonal() -> None:
    """Of four such cells three are tested: the smallest p-value is multiplied by 4, not by 3."""
    judged = judge_transfer(table())
    family = {pair: cell for pair, cell in judged.cells.items() if pair[0] != pair[1]}
    tested = sorted(
        (cell.pvalue, cell.pvalue_holm)
        for cell in family.values()
        if cell.pvalue is not None and cell.pvalue_holm is not None
    )
    assert (len(family), len(tested)) == (4, 3)
    assert tested[0][1] == pytest.approx(min(1.0, 4 * tested[0][0]))
    assert judged.cells["a", "a"].pvalue is not None
    assert judged.cells["a", "a"].pvalue_holm is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sources": ("a", "b", "theta0", "a")}, "source a is given twice"),
        ({"targets": ("a", "b", "b")}, "target b is given twice"),
        ({"deltas": {"a": 0.01}}, "target b has no delta"),
        ({"sources": ("a", "b")}, "cell theta0 -> a is not in the table"),
        ({"lost_futility": frozenset({("a", "c")})}, "cell a -> c is not in the table"),
    ],
)
def test_a_table_that_cannot_be_is_refused(changes: dict[str, object], told: str) -> None:
    """A caller's mistake is not judged around."""
    with pytest.raises(ValueError, match=told):
        judge_transfer(table(**changes))
