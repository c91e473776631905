"""The transfer table: dark cells, futility, intervals and corrections, and the published counts."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.statistics import t_interval
from orchestrator.transfer import (
    DarkCount,
    Pair,
    TransferCell,
    TransferScores,
    count_dark,
    is_dark,
    is_futile,
    judge_transfer,
)

FIGURE2 = json.loads((Path(__file__).parent / "data" / "chen2020_figure2.json").read_text())
CENTS = st.integers(0, 100).map(lambda x: Decimal(x) / 100)
NAMES = ("a", "b", "c")
LAW = settings(deadline=None)  # the first quantile loads scipy
Scored = dict[int, float | Decimal | None]


def seeded(*scores: float | Decimal | None) -> Scored:
    return dict(enumerate(scores))


def published() -> dict[Pair, Decimal]:
    return {
        (row["source"], target): Decimal(difference)
        for row in FIGURE2["rows"]
        for target, difference in zip(FIGURE2["targets"], row["differences"], strict=True)
    }


def table(**changes: object) -> TransferScores:
    """Return two tasks and theta0: a -> b is as good as b -> b, b -> a is worse than a -> a."""
    cells = {
        ("a", "a"): seeded(0.90, 0.91, 0.92),
        ("a", "b"): seeded(0.80, 0.81, 0.82),
        ("b", "a"): seeded(0.80, 0.82, 0.81),
        ("b", "b"): seeded(0.82, 0.80, 0.81),
        ("theta0", "a"): seeded(0.91, 0.91, 0.92),
        ("theta0", "b"): seeded(0.10, None, None),
    }
    made = TransferScores(
        sources=("a", "b", "theta0"),
        targets=("a", "b"),
        cells=cells,
        dense={"a": seeded(0.90, 0.91, 0.92), "b": seeded(0.83, 0.83, 0.83)},
        deltas={"a": 0.01, "b": 0.01},
        lost_futility=frozenset({("theta0", "b")}),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def cell_of(scores: TransferScores, source: str, target: str) -> TransferCell:
    return judge_transfer(scores).cells[source, target]


@st.composite
def tables(draw: st.DrawFn) -> TransferScores:
    """Return a table of three tasks with holes, on Decimals."""
    num = draw(st.integers(1, 4))
    score = st.one_of(CENTS, CENTS, CENTS, st.none())

    def side() -> Scored:
        return seeded(*draw(st.lists(score, min_size=num, max_size=num)))

    cells = {(source, target): side() for source in NAMES for target in NAMES}
    stopped = draw(st.frozensets(st.sampled_from(list(cells)), max_size=3))
    dense, deltas = {name: side() for name in NAMES}, dict.fromkeys(NAMES, Decimal("0.05"))
    return TransferScores(NAMES, NAMES, cells, dense, deltas, stopped)


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
    ("score", "delta", "futile"),
    [
        ("0.859", "0.01", True),  # 4 s_T = 0.04 decides
        ("0.860", "0.01", False),
        ("0.839", "0.02", True),  # 3 delta = 0.06 decides
        ("0.840", "0.02", False),
    ],
)
def test_futility_by_hand(score: str, delta: str, futile: bool) -> None:
    """The own mask has 0.90 +- 0.01; equality goes on."""
    own = [Decimal(x) for x in ("0.89", "0.90", "0.91")]
    assert is_futile(Decimal(score), own, Decimal(delta)) is futile
    assert is_futile(Decimal(score), own, float(delta)) is futile


def test_what_stopping_early_could_have_saved_of_the_published_table() -> None:
    """Figure 2, each mean taken for the first seed, no spread, a margin of one point: 48 of 121."""
    scores = published()
    foreign = [pair for pair in scores if pair[0] != pair[1]]
    stopped = [p for p in foreign if is_futile(scores[p], [scores[p[1], p[1]]] * 3, Decimal(1))]
    assert (len(foreign), len(stopped)) == (121, 48)
    num_runs = 3 * len(foreign) - 2 * len(stopped)
    assert f"{num_runs / (3 * len(foreign)):.2f}" == "0.74"
    assert not any(is_dark(scores[pair], scores[pair[1], pair[1]]) for pair in stopped)


def test_nothing_is_stopped_without_two_scores_of_the_own_mask_or_for_a_diverged_seed() -> None:
    """One score has no deviation; a diverged seed leaves its cell undecided instead."""
    assert not is_futile(0.0, [0.9], 0.01)
    assert not is_futile(0.0, [], 0.01)
    assert not is_futile(float("nan"), [0.9, 0.9], 0.01)
    assert not is_futile(float("-inf"), [0.9, 0.9], 0.01)
    assert is_futile(0.86, [0.9, 0.9], 0.01)


@given(st.lists(CENTS, min_size=2, max_size=5), CENTS, CENTS, st.integers(-3, 3))
@LAW
def test_futility_knows_only_distances(
    own: list[Decimal], score: Decimal, delta: Decimal, shift: int
) -> None:
    """Shifting all scores changes nothing, and no score at or above the own mean is futile."""
    futile = is_futile(score, own, delta)
    assert is_futile(score + shift, [one + shift for one in own], delta) == futile
    assert not (futile and score * len(own) >= sum(own))
    assert not is_futile(score, own, delta + 1)


@given(tables(), st.integers(-5, 5))
@LAW
def test_a_judgement_knows_only_differences(scores: TransferScores, shift: int) -> None:
    """Adding a constant to every score of a target changes no state, dark cell or difference."""

    def shifted(side: Mapping[int, object]) -> Scored:
        return {s: None if x is None else Decimal(str(x)) + shift for s, x in side.items()}

    cells = {pair: shifted(side) for pair, side in scores.cells.items()}
    dense = {name: shifted(side) for name, side in scores.dense.items()}
    before = judge_transfer(scores)
    after = judge_transfer(replace(scores, cells=cells, dense=dense))
    assert after.counts == before.counts
    for pair, cell in before.cells.items():
        other = after.cells[pair]
        assert (cell.state, cell.n, cell.dark) == (other.state, other.n, other.dark)
        assert cell.difference_dense == other.difference_dense
        assert (cell.interval, cell.noninferior) == (other.interval, other.noninferior)


@given(tables(), st.randoms())
@LAW
def test_the_order_of_the_table_decides_nothing(scores: TransferScores, rng: random.Random) -> None:
    """Cells are the same wherever their rows and columns stand."""
    names: list[Sequence[str]] = [list(NAMES), list(NAMES)]
    for one in names:
        rng.shuffle(one)  # type: ignore[arg-type]
    moved = replace(scores, sources=tuple(names[0]), targets=tuple(names[1]))
    before, after = judge_transfer(scores), judge_transfer(moved)
    assert dict(before.cells) == dict(after.cells)
    assert dict(before.counts) == dict(after.counts)
    assert list(after.counts) == list(names[0])


@given(tables())
@LAW
def test_what_holds_of_every_table(scores: TransferScores) -> None:
    """Dark is a difference of at least 0; counts add up; corrections never lower a p-value."""
    judged = judge_transfer(scores)
    for (source, target), cell in judged.cells.items():
        gain = cell.difference_same_task
        assert (cell.dark is None) == (gain is None)
        if gain is not None:
            assert cell.dark == (gain >= 0)
        if cell.pvalue_holm is not None:
            assert cell.pvalue is not None and source != target
            assert cell.pvalue <= cell.pvalue_holm <= 1
        if cell.noninferior is not None and cell.pvalue is not None:
            assert cell.noninferior == (cell.pvalue <= 0.05) or abs(cell.pvalue - 0.05) < 1e-9
    for count in judged.counts.values():
        assert 0 <= count.num_dark <= count.num_known <= count.num_targets == 2


@given(tables())
@LAW
def test_stopping_a_cell_makes_no_other_one_easier(scores: TransferScores) -> None:
    """With one cell fewer to test no corrected p-value gets smaller than the least it can be."""
    stopped = dict(scores.cells) | {("a", "b"): seeded(Decimal(0), *[None] * 3)}
    cut = replace(scores, cells=stopped, lost_futility=scores.lost_futility | {("a", "b")})
    for pair, cell in judge_transfer(cut).cells.items():
        if cell.pvalue is not None and cell.pvalue_holm is not None and cell.pvalue > 0:
            tested = [
                other.pvalue
                for at, other in judge_transfer(cut).cells.items()
                if at[0] != at[1] and other.pvalue is not None
            ]
            rank = sum(pvalue < cell.pvalue for pvalue in tested)
            assert cell.pvalue_holm >= min(1.0, (6 - rank) * cell.pvalue) * (1 - 1e-12), pair


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
