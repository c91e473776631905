"""Means, bounds, intervals and corrections, against scipy.stats and hand-made numbers."""

import itertools
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.statistics import (
    bootstrap_interval,
    holm,
    mean,
    noninferiority_pvalue,
    paired_bound,
    sample_std,
    sign_flip_pvalue,
    t_interval,
    t_quantile,
)

SCORES = st.floats(-1, 1).map(lambda x: round(x, 6))


def test_mean_and_std_of_decimals_are_exact_decimals() -> None:
    """Five runs at m-s, m-s, m, m+s, m+s have mean m and sample deviation s, to the last digit."""
    runs = [Decimal(x) for x in ("84.5", "84.5", "84.9", "85.3", "85.3")]
    assert mean(runs) == Decimal("84.9") and isinstance(mean(runs), Decimal)
    assert sample_std(runs) == Decimal("0.4") and isinstance(sample_std(runs), Decimal)


@given(st.floats(-1e6, 1e6), st.integers(2, 9))
def test_equal_scores_have_their_own_mean_and_no_deviation(score: float, num: int) -> None:
    """A naive sum / n breaks this for 0.1: the deviation would be 1e-17 and a tie a loss."""
    assert mean([score] * num) == score
    assert sample_std([score] * num) == 0


def test_std_divides_by_n_minus_one() -> None:
    """1, 2, 3, 4 deviate by sqrt(5 / 3)."""
    assert sample_std([1.0, 2.0, 3.0, 4.0]) == pytest.approx((5 / 3) ** 0.5, rel=1e-15)


@pytest.mark.parametrize(
    ("confidence", "num_dof", "table"),
    [(0.95, 1, 6.314), (0.95, 2, 2.920), (0.95, 4, 2.132), (0.975, 4, 2.776), (0.5, 7, 0.0)],
)
def test_t_quantile_is_the_printed_table(confidence: float, num_dof: int, table: float) -> None:
    """One-sided quantiles agree with the usual three-digit table and with scipy.stats."""
    assert t_quantile(confidence, num_dof) == pytest.approx(table, abs=5e-4)
    assert t_quantile(confidence, num_dof) == pytest.approx(
        scipy.stats.t.ppf(confidence, num_dof), abs=1e-12
    )


def test_paired_bound_by_hand() -> None:
    """Differences 0.00, 0.01, 0.02: mean 0.01, sd 0.01, t(0.95, 2) = 2.91999, bound 0.026859."""
    assert paired_bound([0.0, 0.01, 0.02]) == pytest.approx(0.01 + 2.919986 * 0.01 / 3**0.5)
    assert paired_bound([Decimal("0.01")] * 3) == 0.01


@given(st.lists(SCORES, min_size=3, max_size=8).filter(lambda xs: len(set(xs)) > 1), SCORES)
def test_paired_t_numbers_agree_with_scipy(losses: list[float], delta: float) -> None:
    """Bound, interval and p-value are those of scipy.stats.ttest_1samp."""
    less = scipy.stats.ttest_1samp(losses, delta, alternative="less")
    two_sided = scipy.stats.ttest_1samp(losses, 0).confidence_interval(0.9)
    assert paired_bound(losses) == pytest.approx(less.confidence_interval(0.95).high, abs=1e-9)
    assert noninferiority_pvalue(losses, delta) == pytest.approx(less.pvalue, abs=1e-6)
    assert t_interval(losses, 0.9) == pytest.approx(tuple(two_sided), abs=1e-9)


@given(st.lists(SCORES, min_size=3, max_size=8), SCORES)
def test_noninferiority_pvalue_decides_as_the_bound_does(losses: list[float], delta: float) -> None:
    """p <= 0.05 exactly where the 95% bound of the loss is at most delta, away from rounding."""
    bound = paired_bound(losses)
    if abs(bound - delta) > 1e-9:
        assert (noninferiority_pvalue(losses, delta) <= 0.05) == (bound <= delta)


def test_noninferiority_without_spread_is_certain() -> None:
    """Identical losses leave no error: p is 0 at or below delta and 1 above."""
    assert noninferiority_pvalue([0.5, 0.5, 0.5], 0.5) == 0.0
    assert noninferiority_pvalue([0.5, 0.5, 0.5], 0.25) == 1.0


def test_sign_flip_by_hand() -> None:
    """Six wins: only the observed signs reach the mean, 1/64. One tie doubles that."""
    assert sign_flip_pvalue([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == 1 / 64
    assert sign_flip_pvalue([0.0, 0.2, 0.3, 0.4, 0.5, 0.6]) == 2 / 64
    assert sign_flip_pvalue([0.0] * 6) == 1.0


@given(st.lists(st.integers(-8, 8), min_size=6, max_size=9))
def test_sign_flip_counts_every_pattern(tenths: list[int]) -> None:
    """The count is the brute-force one, ties included, on Decimals as well."""
    reached = sum(
        sum(sign * x for sign, x in zip(signs, tenths, strict=True)) >= sum(tenths)
        for signs in itertools.product((1, -1), repeat=len(tenths))
    )
    decimals = [Decimal(x) / 10 for x in tenths]
    assert sign_flip_pvalue(decimals) == float(Fraction(reached, 2 ** len(tenths)))


def test_sign_flip_agrees_with_scipy() -> None:
    """scipy's permutation test of paired samples, exact, gives the same p-value."""
    differences = [0.31, -0.12, 0.07, 0.22, -0.03, 0.18, 0.09]
    reference = scipy.stats.permutation_test(
        (differences,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=2**8,
    )
    assert sign_flip_pvalue(differences) == pytest.approx(reference.pvalue, abs=1e-12)


def test_bootstrap_is_repeatable_and_close_to_scipy() -> None:
    """One seed gives one interval, with equal tails, close to the percentile one of scipy."""
    xs = [0.80, 0.82, 0.79, 0.85, 0.81, 0.78, 0.83, 0.80, 0.84, 0.82, 0.77, 0.86]
    ours = bootstrap_interval(xs, seed=3)
    reference = scipy.stats.bootstrap(
        (xs,), lambda x, axis: x.mean(axis=axis), method="percentile", rng=1
    ).confidence_interval
    assert ours == bootstrap_interval(xs, seed=3)
    roots = [x**0.5 for x in xs]  # hardly any two resamples have the same mean
    low, high = bootstrap_interval(roots, 3, 100)
    assert bootstrap_interval([-x for x in roots], 3, 100) == (-high, -low)
    assert bootstrap_interval(xs, 3, 100) != bootstrap_interval(xs, 4, 100)
    assert ours == pytest.approx(tuple(reference), abs=6e-4)


def test_bootstrap_tails_hold_as_many_resamples_as_asked() -> None:
    """With 20 resamples a 90% interval leaves out one at each end, a 95% one has no tail."""
    xs = [float(x) for x in range(10)]
    inner, outer = bootstrap_interval(xs, 0, 20, 0.9), bootstrap_interval(xs, 0, 2000, 0.999)
    assert outer[0] < inner[0] < inner[1] < outer[1]
    with pytest.raises(ValueError, match=r"20 resamples leave nothing in the tails.*at least 40"):
        bootstrap_interval(xs, 0, 20, 0.95)


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.4 times 4, 3, 2, 1, kept monotone, in the order given."""
    assert holm([0.03, 0.4, 0.01, 0.02]) == pytest.approx([0.06, 0.4, 0.04, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_nothing_and_bonferroni(pvalues: list[float]) -> None:
    """No p-value shrinks, none grows above Bonferroni, and their order stays."""
    adjusted = holm(pvalues)
    for before, after in zip(pvalues, adjusted, strict=True):
        assert before <= after <= min(1.0, before * len(pvalues))
    assert [a for _, a in sorted(zip(pvalues, adjusted, strict=True))] == sorted(adjusted)


def test_too_few_values_are_refused() -> None:
    """Each number says how many values it needs and how many it got."""
    with pytest.raises(ValueError, match="a mean needs at least 1 values, got 0"):
        mean([])
    with pytest.raises(ValueError, match="a sample deviation needs at least 2 values, got 1"):
        sample_std([1.0])
    with pytest.raises(ValueError, match="a bound needs at least 2"):
        paired_bound([1.0])
    with pytest.raises(ValueError, match="a p-value needs at least 2"):
        noninferiority_pvalue([1.0], 0.1)
    with pytest.raises(ValueError, match="a t interval needs at least 3 values, got 2"):
        t_interval([1.0, 2.0])
    with pytest.raises(ValueError, match="a sign-flip test needs at least 6 values, got 5"):
        sign_flip_pvalue([1.0] * 5)
    with pytest.raises(ValueError, match="a bootstrap interval needs at least 10 values, got 9"):
        bootstrap_interval([1.0] * 9, seed=0)


def test_values_out_of_range_are_refused() -> None:
    """Fractions, degrees of freedom, p-values and exact tests have their ranges."""
    with pytest.raises(ValueError, match=r"confidence is a fraction inside \(0, 1\), got 95"):
        t_quantile(95, 4)
    with pytest.raises(ValueError, match="num_dof is 0"):
        t_quantile(0.95, 0)
    with pytest.raises(ValueError, match="at most 40 values, got 41"):
        sign_flip_pvalue([1.0] * 41)
    with pytest.raises(ValueError, match=r"in \[0, 1\], got nan"):
        holm([float("nan")])


def test_verdicts_load_neither_scipy_nor_numpy() -> None:
    """A command that only plans pays nothing for statistics."""
    code = (
        "import sys, orchestrator.verdicts\n"
        "sys.exit(', '.join({'scipy', 'numpy', 'torch'} & sys.modules.keys()) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
