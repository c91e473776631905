"""The few numbers that verdicts need: means, deviations, bounds, intervals and corrections.

Everything here is pure. Means and deviations are correctly rounded, so equal scores have a
deviation of exactly 0 and ties stay ties; on `Decimal` they stay `Decimal`. scipy.stats is not
imported: it would triple the start of every command that prints a verdict.
"""

import math
import random
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import TypeVar

NumberT = TypeVar("NumberT", float, Decimal)

MIN_T_INTERVAL = 3
MIN_SIGN_FLIP = 6
MIN_BOOTSTRAP = 10
# 2^20 subset sums for each half of the differences: about a second.
MAX_SIGN_FLIP = 40


def mean(xs: Sequence[NumberT]) -> NumberT:
    """Return the correctly rounded mean; `Decimal` in, `Decimal` out.

    Raises:
        ValueError: If `xs` is empty.
    """
    _require(xs, 1, "a mean")
    return statistics.mean(xs)


def sample_std(xs: Sequence[NumberT]) -> NumberT:
    """Return the sample standard deviation (ddof 1); `Decimal` in, `Decimal` out.

    Raises:
        ValueError: If `xs` has fewer than two values.
    """
    _require(xs, 2, "a sample deviation")
    return statistics.stdev(xs)


def t_quantile(confidence: float, num_dof: int) -> float:
    """Return t with P(T <= t) = `confidence` for Student's T with `num_dof` degrees of freedom.

    Raises:
        ValueError: If `confidence` is not inside (0, 1) or `num_dof` is below 1.
    """
    _require_confidence(confidence)
    if num_dof < 1:
        raise ValueError(f"num_dof is {num_dof}; a t quantile needs at least 1")
    # Here and not above: planning commands import this module and never need a quantile.
    from scipy.special import stdtrit

    return float(stdtrit(num_dof, confidence))


def paired_bound(differences: Sequence[NumberT], confidence: float = 0.95) -> float:
    """Return the one-sided upper t bound of the mean difference: mean + t sd / sqrt(n).

    Raises:
        ValueError: If there are fewer than two differences, or on a bad `confidence`.
    """
    _require(differences, 2, "a bound")
    quantile = t_quantile(confidence, len(differences) - 1)
    return float(mean(differences)) + quantile * _standard_error(differences)


def noninferiority_pvalue(losses: Sequence[NumberT], delta: float) -> float:
    """Return the one-sided paired-t p-value against "the mean loss is above `delta`".

    It is at most 0.05 exactly where `paired_bound(losses, 0.95)` is at most `delta`. Without any
    spread it is 0 or 1.

    Raises:
        ValueError: If there are fewer than two losses.
    """
    _require(losses, 2, "a p-value")
    excess, error = float(mean(losses)) - float(delta), _standard_error(losses)
    if error == 0:
        return 0.0 if excess <= 0 else 1.0
    from scipy.special import stdtr

    return float(stdtr(len(losses) - 1, excess / error))


def t_interval(xs: Sequence[NumberT], confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided t interval of the mean.

    Raises:
        ValueError: If there are fewer than three values, or on a bad `confidence`.
    """
    _require_confidence(confidence)
    _require(xs, MIN_T_INTERVAL, "a t interval")
    half = t_quantile((1 + confidence) / 2, len(xs) - 1) * _standard_error(xs)
    centre = float(mean(xs))
    return centre - half, centre + half


def sign_flip_pvalue(differences: Sequence[NumberT]) -> float:
    """Return the exact p-value of the one-sided sign-flip test of "the mean is above 0".

    It is the fraction of the 2^n sign patterns whose mean is at least the observed one. A pattern
    reaches it exactly where the differences that it flips sum to at most 0, so those subsets are
    counted, half of the differences against the other half and in integers: ties are exact.

    Raises:
        ValueError: If there are fewer than six differences, or more than forty.
    """
    num = len(differences)
    _require(differences, MIN_SIGN_FLIP, "a sign-flip test")
    if num > MAX_SIGN_FLIP:
        raise ValueError(
            f"an exact sign-flip test takes at most {MAX_SIGN_FLIP} values, got {num}: "
            "use t_interval or bootstrap_interval"
        )
    fractions = [Fraction(difference) for difference in differences]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    integers = [int(fraction * scale) for fraction in fractions]
    left = sorted(_subset_sums(integers[: num // 2]))
    count = sum(bisect_right(left, -right) for right in _subset_sums(integers[num // 2 :]))
    return float(Fraction(count, 2**num))


def bootstrap_interval(
    xs: Sequence[NumberT], seed: int, num_resamples: int = 10000, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean; the same seed gives the same interval.

    Raises:
        ValueError: If there are fewer than ten values, fewer resamples than the tails need, or on
            a bad `confidence`.
    """
    _require_confidence(confidence)
    _require(xs, MIN_BOOTSTRAP, "a bootstrap interval")
    # Rounded before it is floored: (1 - 0.9) / 2 * 1000 is 49.99999999999999.
    num_tail = math.floor(round((1 - confidence) / 2 * num_resamples, 6))
    if num_tail < 1:
        raise ValueError(
            f"{num_resamples} resamples leave nothing in the tails of a {confidence} interval: "
            f"use at least {math.ceil(2 / (1 - confidence))}"
        )
    values, rng = [float(x) for x in xs], random.Random(seed)
    means = sorted(
        math.fsum(rng.choices(values, k=len(values))) / len(values) for _ in range(num_resamples)
    )
    return means[num_tail], means[-1 - num_tail]


def holm(pvalues: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order given.

    Rejecting where the adjusted value is at most alpha keeps the chance of any false rejection at
    alpha, however the tests depend on each other.

    Raises:
        ValueError: If a p-value is not in [0, 1].
    """
    for pvalue in pvalues:
        if not 0 <= pvalue <= 1:
            raise ValueError(f"a p-value must be in [0, 1], got {pvalue}")
    adjusted, running = [0.0] * len(pvalues), 0.0
    for rank, index in enumerate(sorted(range(len(pvalues)), key=pvalues.__getitem__)):
        running = max(running, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        adjusted[index] = running
    return adjusted


def _standard_error(xs: Sequence[NumberT]) -> float:
    return float(sample_std(xs)) / math.sqrt(len(xs))


def _subset_sums(integers: Sequence[int]) -> list[int]:
    sums = [0]
    for integer in integers:
        sums += [partial + integer for partial in sums]
    return sums


def _require(xs: Sequence[NumberT], minimum: int, what: str) -> None:
    if len(xs) < minimum:
        raise ValueError(f"{what} needs at least {minimum} values, got {len(xs)}: run more seeds")


def _require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a fraction inside (0, 1), got {confidence}")
