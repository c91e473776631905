"""Futility by hand, and laws that hold of every transfer table."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.transfer import TransferScores, is_dark, is_futile, judge_transfer
from tests.orchestrator.transfer_tables import CENTS, LAW, NAMES, Scored, published, seeded, tables


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
