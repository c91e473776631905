"""Pruners remove exactly K weights, the right ones, and keep masks nested (rules 8, 9, 11)."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from search_spaces.prunable import PrunableSet
from workers.mask import Mask
from workers.pruners import (
    Pruned,
    PruneError,
    WeightsNotFiniteError,
    global_magnitude,
    layerwise_magnitude,
    layerwise_quotas,
    random_layerwise,
    random_uniform,
    theta0_magnitude,
)

SET = PrunableSet(names=("a", "b", "c"), shapes=((2, 3), (5, 1), (3, 3)))
SIZES, N = [6, 5, 9], 20
Floats = NDArray[np.float32]
# Few distinct magnitudes: most thresholds are tied. Both signs and both zeros occur.
TIED = st.lists(
    st.sampled_from([-0.0, 0.0, 0.5, -0.5, 1.0, -1.0, 1e-40, float("inf")]), min_size=N, max_size=N
)
STEPS = st.lists(st.integers(0, N - 1), min_size=1, max_size=4).map(sorted)


def matrices(flat: list[float]) -> dict[str, Floats]:
    parts = np.split(np.array(flat, dtype=np.float32), np.cumsum(SIZES)[:-1])
    return {
        name: part.reshape(shape)
        for name, part, shape in zip(SET.names, parts, SET.shapes, strict=True)
    }


def by_full_sort(flat: list[float], kept: list[bool], num_more: int) -> tuple[list[bool], int]:
    """Prune by sorting (magnitude, index) of the survivors in Python; count the ties."""
    survivors = sorted((abs(flat[i]), i) for i in range(len(flat)) if kept[i])
    gone = {i for _, i in survivors[:num_more]}
    threshold = survivors[num_more - 1][0] if num_more else None
    ties = sum(magnitude == threshold for magnitude, _ in survivors)
    return [keep and i not in gone for i, keep in enumerate(kept)], ties


@settings(deadline=None)  # the machine may be busy
@given(st.lists(TIED, min_size=4, max_size=4), STEPS)
def test_global_magnitude_equals_a_full_sort(rounds: list[list[float]], steps: list[int]) -> None:
    """Round after round, with ties everywhere: exact K, the same weights, the same tie count."""
    mask = Mask.ones(SET)
    for flat, num_removed in zip(rounds, steps, strict=False):
        flat = np.array(flat, dtype=np.float32).tolist()
        before = mask
        expected, ties = by_full_sort(flat, mask.kept().tolist(), num_removed - mask.num_removed)
        mask, num_ties = global_magnitude(matrices(flat), mask, num_removed)
        assert mask.kept().tolist() == expected
        assert (mask.num_removed, num_ties) == (num_removed, ties)
        assert mask.is_subset_of(before)


def test_ties_go_by_lowest_index_across_matrices() -> None:
    """All weights equal: the first K in canonical order go, and all survivors are ties."""
    mask, num_ties = global_magnitude(matrices([0.5, -0.5] * 10), Mask.ones(SET), 8)
    assert mask.kept().tolist() == [False] * 8 + [True] * 12
    assert num_ties == 20


def test_the_mask_decides_survival_and_not_the_value() -> None:
    """A surviving weight of 0 competes; a removed weight of any size stays removed."""
    kept = np.array([False] * 4 + [True] * 16)
    flat = [9.0] * 4 + [1.0] * 14 + [0.0, 0.0]
    mask, num_ties = global_magnitude(matrices(flat), Mask.from_bool(SET, kept), 5)
    assert mask.kept().tolist() == [False] * 4 + [True] * 14 + [False, True]
    assert num_ties == 2


def test_weights_that_are_not_contiguous_are_read_row_major() -> None:
    """A transposed view is ranked by its values, not by its memory."""
    weights = matrices([float(i + 1) for i in range(20)])
    weights["c"] = np.asfortranarray(weights["c"])
    kept = global_magnitude(weights, Mask.ones(SET), 13).mask.kept()
    assert kept.tolist() == [False] * 13 + [True] * 7


@settings(deadline=None)  # the machine may be busy
@given(st.lists(TIED, min_size=4, max_size=4), STEPS)
def test_layerwise_masks_are_exact_and_nested(rounds: list[list[float]], steps: list[int]) -> None:
    """Each matrix loses its quota, by a full sort within it; all quotas sum to K."""
    mask = Mask.ones(SET)
    for flat, num_removed in zip(rounds, steps, strict=False):
        flat = np.array(flat, dtype=np.float32).tolist()
        removed = [int((~mask.matrix(name)).sum()) for name in SET.names]
        quotas = layerwise_quotas(SIZES, removed, num_removed)
        expected, start = [], 0
        for size, old, quota in zip(SIZES, removed, quotas, strict=True):
            part = slice(start, start + size)
            expected += by_full_sort(flat[part], mask.kept()[part].tolist(), quota - old)[0]
            start += size
        before, mask = mask, layerwise_magnitude(matrices(flat), mask, num_removed).mask
        assert mask.kept().tolist() == expected
        assert mask.num_removed == num_removed and mask.is_subset_of(before)


def test_layerwise_ties_are_counted_over_matrices() -> None:
    """Three matrices of equal weights: every weight is a tie."""
    assert layerwise_magnitude(matrices([1.0] * 20), Mask.ones(SET), 10).num_ties == 20


def test_quotas_by_largest_remainder() -> None:
    """7 of 20 over 6, 5 and 9: 2.1, 1.75 and 3.15, so that the second gets the odd one."""
    assert layerwise_quotas(SIZES, [0, 0, 0], 7) == [2, 2, 3]


def test_quotas_never_fall() -> None:
    """Where the share falls as the total grows, a matrix keeps what it lost: masks stay nested.

    Of 6, 6 and 2: 10 removed give 4, 4 and 2, but 11 would give 5, 5 and 1.
    """
    first = layerwise_quotas([6, 6, 2], [0, 0, 0], 10)
    assert first == [4, 4, 2]
    assert layerwise_quotas([6, 6, 2], [0, 0, 0], 11) == [5, 5, 1]
    assert layerwise_quotas([6, 6, 2], first, 11) == [5, 4, 2]


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.data())
def test_quotas_sum_and_stay_in_bounds(sizes: list[int], data: st.DataObject) -> None:
    """From any counts: quotas sum to K, never fall, and never exceed the matrix."""
    removed = [data.draw(st.integers(0, size)) for size in sizes]
    total = data.draw(st.integers(sum(removed), sum(sizes)))
    quotas = layerwise_quotas(sizes, removed, total)
    assert sum(quotas) == total
    bounds = zip(removed, quotas, sizes, strict=True)
    assert all(low <= quota <= size for low, quota, size in bounds)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.data())
def test_fresh_quotas_are_within_one_of_the_exact_share(
    sizes: list[int], data: st.DataObject
) -> None:
    """With nothing removed yet, no matrix is a whole weight off its proportional share."""
    total = data.draw(st.integers(0, sum(sizes)))
    quotas = layerwise_quotas(sizes, [0] * len(sizes), total)
    exact = [total * size / sum(sizes) for size in sizes]
    assert all(abs(q - e) < 1 for q, e in zip(quotas, exact, strict=True))


def test_theta0_magnitude_is_one_shot_from_dense() -> None:
    """The pre-trained weights' mask needs no parent."""
    flat = [float(i) for i in range(20)]
    pruned = theta0_magnitude(matrices(flat), SET, 6)
    assert pruned.mask.sha256 == global_magnitude(matrices(flat), Mask.ones(SET), 6).mask.sha256
    assert pruned.mask.kept().tolist() == [False] * 6 + [True] * 14


def test_random_masks_of_one_seed_are_nested_and_exact() -> None:
    """One permutation serves all K, and another seed is another permutation."""
    masks = [random_uniform(SET, num_removed, seed=7) for num_removed in range(20)]
    assert [mask.num_removed for mask in masks] == list(range(20))
    assert all(b.is_subset_of(a) for a, b in pairwise(masks))
    assert masks[10].sha256 != random_uniform(SET, 10, seed=8).sha256
    kept = "".join(map(str, random_uniform(SET, 10, seed=7).kept().astype(int)))
    assert kept == "10000101011101110010"


def test_random_masks_remove_every_weight_equally_often() -> None:
    """Over 4,000 seeds each weight is removed in about half of the masks."""
    removed = [~random_uniform(SET, 10, seed).kept() for seed in range(4000)]
    assert abs(np.sum(removed, axis=0) - 2000).max() < 150


def test_random_layerwise_has_the_references_counts() -> None:
    """Each matrix keeps as many weights as in the reference, but other ones."""
    kept = np.array([True] + [False] * 5 + [True] * 5 + [True] * 5 + [False] * 4)
    reference = Mask.from_bool(SET, kept)
    masks = [random_layerwise(reference, seed) for seed in range(50)]
    counts = [mask.info().kept_per_matrix for mask in masks]
    assert counts == [{"a": 1, "b": 5, "c": 5}] * 50
    assert len({mask.sha256 for mask in masks}) > 40
    assert random_layerwise(reference, 3).sha256 == masks[3].sha256


@pytest.mark.parametrize("prune", [global_magnitude, layerwise_magnitude])
@pytest.mark.parametrize("num_removed", [4, 20])
def test_impossible_counts_are_refused(prune: Callable[..., Pruned], num_removed: int) -> None:
    """Removed weights never come back, and one weight must be left."""
    mask = random_uniform(SET, 5, seed=1)
    with pytest.raises(PruneError, match=f"num_removed is {num_removed}.*already removes 5 of 20"):
        prune(matrices([1.0] * 20), mask, num_removed)


def test_random_masks_refuse_to_remove_everything() -> None:
    """K = N is refused (method rule 8)."""
    with pytest.raises(PruneError, match="give 0 to 19"):
        random_uniform(SET, 20, seed=1)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_is_refused(sign: float) -> None:
    """NaN of either sign has no magnitude, even where the mask already removed it."""
    weights = matrices([1.0] * 20)
    weights["b"][2, 0] = np.copysign(np.nan, sign)
    with pytest.raises(WeightsNotFiniteError, match=r"b holds NaN.*lower the learning rate"):
        global_magnitude(weights, Mask.ones(SET), 5)


def test_wrong_weights_are_refused() -> None:
    """Missing matrices, other shapes and other dtypes are named."""
    weights = matrices([1.0] * 20)
    del weights["a"]
    with pytest.raises(PruneError, match="a is missing, but must be float32 of shape"):
        global_magnitude(weights, Mask.ones(SET), 5)
    weights["a"] = np.ones((3, 2), dtype=np.float32)
    with pytest.raises(PruneError, match=r"a is float32 of shape \(3, 2\), but must be .*\(2, 3\)"):
        global_magnitude(weights, Mask.ones(SET), 5)
    weights["a"] = np.ones((2, 3), dtype=np.float16)
    with pytest.raises(PruneError, match=r"a is float16 of shape.*Give the fp32 masters"):
        global_magnitude(weights, Mask.ones(SET), 5)
