"""Counts of removed weights are exact, increasing, and as torch's where asked (method rule 8)."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from search_spaces.errors import SpecError
from search_spaces.schedules import (
    GeometricSchedule,
    LevelsSchedule,
    LinearSchedule,
    removed_counts,
)

BERT_BASE, BERT_LARGE = 85_524_480, 303_038_464


def half_even(value: Decimal) -> int:
    return int(value.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


def test_linear_counts_of_bert_base_are_tenths_of_the_original() -> None:
    """Round r of 10% steps removes r tenths of 85,524,480, which 10 divides."""
    counts = removed_counts(LinearSchedule(step=0.1, rounds=9), BERT_BASE)
    assert counts == tuple(8_552_448 * r for r in range(1, 10))


def test_geometric_counts_by_hand() -> None:
    """20% of what remains of 1000: 800, 640, 512 remain, then 409.6 -> 410."""
    counts = removed_counts(GeometricSchedule(rate=0.2, rounds=4), 1000)
    assert counts == (200, 360, 488, 590)


def test_ties_round_to_even() -> None:
    """15 x 0.1 = 1.5 -> 2 and 15 x 0.3 = 4.5 -> 4; in floats 0.3 = 0.1 x 3 would go astray."""
    assert removed_counts(LinearSchedule(step=0.1, rounds=3), 15) == (2, 3, 4)
    assert removed_counts(LevelsSchedule(levels=(0.1, 0.3)), 15) == (2, 4)


@given(st.integers(100, 400_000_000), st.integers(1, 9))
def test_linear_counts_equal_decimal_arithmetic(num: int, rounds: int) -> None:
    """K_r = round_half_even(N r p), computed independently in decimals."""
    with localcontext(prec=60):
        expected = tuple(half_even(num * r * Decimal("0.1")) for r in range(1, rounds + 1))
    assert removed_counts(LinearSchedule(step=0.1, rounds=rounds), num) == expected


@given(st.integers(1000, 400_000_000), st.sampled_from(["0.1", "0.2", "0.25"]), st.integers(1, 12))
def test_geometric_counts_equal_decimal_arithmetic(num: int, rate: str, rounds: int) -> None:
    """K_r = N - round_half_even(N (1-p)^r), computed independently in decimals."""
    with localcontext(prec=80):
        kept = [half_even(num * (1 - Decimal(rate)) ** r) for r in range(1, rounds + 1)]
    counts = removed_counts(GeometricSchedule(rate=float(rate), rounds=rounds), num)
    assert counts == tuple(num - k for k in kept)


@given(st.integers(1000, 400_000_000), st.floats(0.01, 0.5), st.integers(1, 8))
def test_masks_can_be_nested(num: int, rate: float, rounds: int) -> None:
    """Every round removes at least one weight more and never all of them."""
    counts = removed_counts(GeometricSchedule(rate=rate, rounds=rounds), num)
    assert all(low < high for low, high in pairwise((0, *counts, num)))


def torch_global_unstructured(num: int) -> list[int]:
    """What torch.nn.utils.prune leaves removed after each of the reference script's calls."""
    remaining, removed = num, []
    for pruning_step in range(9):
        remaining -= round((1 / (10 - pruning_step)) * remaining)
        removed.append(num - remaining)
    return removed


@given(st.integers(100, 400_000_000))
def test_torch_rounding_repeats_the_reference_script(num: int) -> None:
    """'torch' gives the script's own counts, and these stay within two weights of exact ones."""
    counts = removed_counts(LinearSchedule(step=0.1, rounds=9, rounding="torch"), num)
    assert list(counts) == torch_global_unstructured(num)
    exact = removed_counts(LinearSchedule(step=0.1, rounds=9), num)
    assert max(abs(a - b) for a, b in zip(counts, exact, strict=True)) <= 2


@pytest.mark.parametrize("num", [BERT_BASE, BERT_LARGE, 10_616_832, 393_216])
def test_torch_rounding_of_real_models_is_within_one_weight(num: int) -> None:
    """For BERT-base, BERT-large, MiniLM-L6 and BERT-tiny the two roundings differ by one."""
    torch_counts = removed_counts(LinearSchedule(step=0.1, rounds=9, rounding="torch"), num)
    exact = removed_counts(LinearSchedule(step=0.1, rounds=9), num)
    assert max(abs(a - b) for a, b in zip(torch_counts, exact, strict=True)) <= 1


def test_removing_everything_is_refused() -> None:
    """A level that rounds to N would leave an empty network."""
    with pytest.raises(SpecError, match="removes all 10 prunable weights at round 1"):
        removed_counts(GeometricSchedule(rate=0.99, rounds=1), 10)
    with pytest.raises(ValidationError, match=r"10 rounds of 0\.1 remove everything"):
        LinearSchedule(step=0.1, rounds=10)


def test_every_level_that_does_not_fit_is_named() -> None:
    """Levels that remove nothing, as much as the one before, or everything."""
    with pytest.raises(SpecError) as told:
        removed_counts(LevelsSchedule(levels=(0.01, 0.5, 0.51, 0.99)), 10)
    assert str(told.value).splitlines() == [
        "schedule: levels[0]: is 0.01, but removes none of 10 weights. Use a larger level.",
        "schedule: levels[2]: is 0.51, but removes 5 of 10 weights, as 0.5 does. "
        "Leave one of the two out.",
        "schedule: levels[3]: is 0.99, but removes all of 10 weights. Use a smaller level.",
    ]


def test_coinciding_counts_are_refused() -> None:
    """Two rounds with one mask would be one trial under two names."""
    with pytest.raises(SpecError, match=r"gives the counts \[0, 1\] for 10 prunable weights"):
        removed_counts(LinearSchedule(step=0.05, rounds=2), 10)


@pytest.mark.parametrize(
    ("levels", "message"),
    [((0.5, 0.5), "strictly increasing"), ((0.5, 1.0), "between 0 and 1"), ((0.0,), "between")],
)
def test_levels_must_be_increasing_fractions(levels: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LevelsSchedule(levels=levels)
