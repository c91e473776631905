"""Curves: how far an unbroken run of matching levels goes, and what beats a control."""

from decimal import Decimal

import pytest

from orchestrator.verdicts import DEFAULT_RULE, RULES, LevelScores, beats, judge_curve, judge_level
from tests.orchestrator.levels import bad, good, level, seeded


def test_curves_are_not_monotone() -> None:
    """A failing level ends the contiguous run but not the search for any match."""
    curve = judge_curve([good(0.1), good(0.3), bad(0.5), good(0.7), bad(0.9)], 0.01)
    for rule in RULES:
        assert curve.rules[rule].sparsest_contiguous == 0.3
        assert curve.rules[rule].sparsest_any == 0.7
    assert curve.sparsest_any_holm == 0.7


def test_levels_come_in_any_order_once() -> None:
    """The curve sorts its levels, the unevaluated ones are no gap, and a repeat is refused."""
    curve = judge_curve([good(0.9), bad(0.95), good(0.2)], 0.01)
    assert [verdict.sparsity for verdict in curve.levels] == [0.2, 0.9, 0.95]
    assert curve.rules[DEFAULT_RULE].sparsest_contiguous == 0.9
    with pytest.raises(ValueError, match=r"sparsity 0\.5 is given twice"):
        judge_curve([good(0.5), bad(0.5)], 0.01)


def test_nothing_matches() -> None:
    """A curve that fails from its first level, or has no level, has no sparsest match."""
    failing, empty = judge_curve([bad(0.1), bad(0.2)], 0.01), judge_curve([], 0.01)
    assert failing.rules["overlap"].sparsest_contiguous is None
    assert failing.rules["overlap"].sparsest_any is None
    assert failing.rules["overlap"].leave_one_out == (0.0, 0.0)
    assert empty.rules["overlap"].leave_one_out is None
    assert failing.sparsest_any_holm is empty.sparsest_any_holm is None


@pytest.mark.parametrize(
    "gap",
    [
        level(0.3, [0.9, 0.9, 0.9, None]),
        LevelScores(0.3, 300, {0: 0.9, 1: 0.9, 2: 0.9}, seeded([0.9] * 4)),
    ],
    ids=["undecided", "unpaired"],
)
def test_a_level_without_verdict_breaks_the_run_for_good(gap: LevelScores) -> None:
    """Leaving out the very seed that is missing does not decide the level either."""
    curve = judge_curve([good(0.1), gap, good(0.5)], 0.01)
    for rule in RULES:
        assert curve.rules[rule].sparsest_contiguous == 0.1
        assert curve.rules[rule].sparsest_any == 0.5
        assert curve.rules[rule].leave_one_out == (0.1, 0.1)


def test_leave_one_out_shows_what_hangs_on_one_seed() -> None:
    """Seed 3 alone fails at 0.5: without it the run reaches 0.5; without seed 0 it loses 0.3.

    At 0.3 seed 0 is so much better that it carries the mean of three slightly worse seeds.
    """
    carried = level(0.3, [0.99, 0.88, 0.88, 0.88])
    failing = level(0.5, [0.9, 0.9, 0.9, 0.5])
    strict = judge_curve([good(0.1), carried, failing], 0.01).rules["strict"]
    assert strict.sparsest_contiguous == 0.3
    assert strict.leave_one_out == (0.1, 0.5)


@pytest.mark.parametrize(("num", "noninferior", "strict"), [(2, 0, 0), (3, 0, 1), (4, 1, 1)])
def test_leave_one_out_needs_a_seed_to_spare(num: int, noninferior: int, strict: int) -> None:
    """A rule that has no verdict at n - 1 seeds has no range."""
    rules = judge_curve([good(0.1, num), good(0.2, num)], 0.01).rules
    assert (rules["noninferior"].leave_one_out == (0.2, 0.2)) == bool(noninferior)
    assert (rules["noninferior"].leave_one_out is None) != bool(noninferior)
    assert (rules["strict"].leave_one_out == (0.2, 0.2)) == bool(strict)


def test_holm_takes_back_a_lucky_level() -> None:
    """One level at p = 0.03 among three hopeless ones matches alone but not after correction."""
    lucky = level(0.7, [0.905, 0.9, 0.895, 0.9], [0.904, 0.9, 0.9, 0.9])
    verdict = judge_level(lucky, 0.0045)
    assert verdict.noninferior_pvalue is not None and 0.02 < verdict.noninferior_pvalue < 0.05
    curve = judge_curve([bad(0.2), bad(0.4), bad(0.6), lucky], 0.0045)
    assert curve.rules["noninferior"].sparsest_any == 0.7
    assert curve.sparsest_any_holm is None


def test_beats_needs_the_bound_above_zero() -> None:
    """Gains 0.01, 0.02, 0.03: 0.02 - 2.92 * 0.01 / sqrt(3) = 0.00314, above zero."""
    control = {0: 0.80, 1: 0.80, 2: 0.80}
    clear = beats({0: 0.81, 1: 0.82, 2: 0.83}, control)
    assert clear.n == 3 and clear.beats is True
    assert clear.difference_mean == pytest.approx(0.02)
    assert clear.lower_bound == pytest.approx(0.02 - 2.919986 * 0.01 / 3**0.5)
    assert beats({0: 0.80, 1: 0.81, 2: 0.83}, control).beats is False
    assert beats({0: 0.81, 1: 0.82, 2: 0.83}, control, confidence=0.99).beats is False


def test_beats_without_spread_is_the_mean() -> None:
    """Equal gains have no error: any gain beats, no gain does not."""
    gain = beats(dict.fromkeys(range(3), Decimal("0.81")), dict.fromkeys(range(3), Decimal("0.80")))
    assert (gain.difference_mean, gain.lower_bound, gain.beats) == (Decimal("0.01"), 0.01, True)
    assert beats({0: 0.8, 1: 0.8}, {0: 0.8, 1: 0.8}).beats is False


@pytest.mark.parametrize(
    ("ticket", "control", "num"),
    [
        ({0: 0.9}, {0: 0.1}, 1),
        ({0: 0.9, 1: 0.9}, {0: 0.1, 2: 0.1}, 1),
        ({0: 0.9, 1: 0.9, 2: None}, {0: 0.1, 1: 0.1, 2: 0.1}, 2),
    ],
    ids=["one seed", "unpaired", "failed"],
)
def test_beats_has_no_verdict_without_paired_seeds(
    ticket: dict[int, float | None], control: dict[int, float | None], num: int
) -> None:
    """A control is not beaten by a seed that it did not run."""
    comparison = beats(ticket, control)
    assert (comparison.n, comparison.beats, comparison.lower_bound) == (num, None, None)
