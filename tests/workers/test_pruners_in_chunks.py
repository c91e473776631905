"""Pruners go through large matrices in chunks: as one full sort would, and in little memory."""

import math
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from search_spaces.prunable import PrunableSet
from workers import pruners
from workers.bits import CHUNK
from workers.mask import Mask, matrix_slices
from workers.pruners import (
    global_magnitude,
    layerwise_magnitude,
    layerwise_quotas,
    random_layerwise,
    random_uniform,
)
from workers.seeds import random_words

# Matrices of more than one chunk, none but the first at a whole byte.
LARGE = PrunableSet(names=("a", "b", "c"), shapes=((331, 433), (3, 1), (617, 521)))


def by_argsort(keys: NDArray[np.generic], kept: NDArray[np.bool_], num_more: int) -> int:
    """Clear ``kept`` at its smallest keys by one stable sort; return the ties at the threshold."""
    survivors = np.flatnonzero(kept)
    order = survivors[np.argsort(keys[survivors], kind="stable")]
    kept[order[:num_more]] = False
    return int((keys[survivors] == keys[order[num_more - 1]]).sum()) if num_more else 0


def large_weights(seed: int) -> dict[str, NDArray[np.float32]]:
    """Draw weights of few magnitudes, so that every threshold has ties in several chunks."""
    assert all(math.prod(LARGE.shapes[i]) > CHUNK for i in (0, 2))
    drawn = np.random.default_rng(seed).normal(0, 1, LARGE.num_weights)
    flat = (drawn.round(3) * 2.0**-140).astype(np.float32)  # denormal
    return {
        name: flat[place].reshape(shape)
        for shape, (name, place) in zip(LARGE.shapes, matrix_slices(LARGE).items(), strict=True)
    }


def test_global_masks_over_many_chunks_equal_a_full_sort() -> None:
    """Bits and tie counts are those of one sort, over three rounds, ties across matrices."""
    mask, kept = Mask.ones(LARGE), np.ones(LARGE.num_weights, dtype=np.bool_)
    for seed, num_removed in enumerate((100_003, 100_003, 300_007)):
        weights = large_weights(seed)
        keys = np.concatenate([np.abs(values).ravel() for values in weights.values()])
        expected = by_argsort(keys, kept, num_removed - mask.num_removed)
        mask, num_ties = global_magnitude(weights, mask, num_removed)
        assert np.array_equal(mask.kept(), kept)
        assert num_ties == expected and (num_ties > 100) == (seed != 1)


def test_layerwise_masks_over_many_chunks_equal_a_full_sort() -> None:
    """The same within each matrix."""
    mask, kept = Mask.ones(LARGE), np.ones(LARGE.num_weights, dtype=np.bool_)
    sizes = [math.prod(shape) for shape in LARGE.shapes]
    for seed, num_removed in enumerate((100_003, 300_007)):
        weights, expected = large_weights(seed), 0
        removed = [int((~kept[place]).sum()) for place in matrix_slices(LARGE).values()]
        quotas = layerwise_quotas(sizes, removed, num_removed)
        for i, (name, place) in enumerate(matrix_slices(LARGE).items()):
            keys = np.abs(weights[name]).ravel()
            expected += by_argsort(keys, kept[place], quotas[i] - removed[i])
        mask, num_ties = layerwise_magnitude(weights, mask, num_removed)
        assert np.array_equal(mask.kept(), kept)
        assert num_ties == expected > 100


@pytest.mark.parametrize("words_in_memory", [0, pruners.WORDS_IN_MEMORY])
def test_random_masks_over_many_chunks_equal_a_full_sort(
    words_in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random masks are the sorts of Philox's words, whether these are kept or made again."""
    monkeypatch.setattr(pruners, "WORDS_IN_MEMORY", words_in_memory)
    words = random_words(9, LARGE.num_weights)
    kept = np.ones(LARGE.num_weights, dtype=np.bool_)
    by_argsort(words, kept, 200_001)
    reference = random_uniform(LARGE, 200_001, seed=9)
    assert np.array_equal(reference.kept(), kept)
    kept = np.ones(LARGE.num_weights, dtype=np.bool_)
    for name, place in matrix_slices(LARGE).items():
        by_argsort(words[place], kept[place], int((~reference.matrix(name)).sum()))
    assert np.array_equal(random_layerwise(reference, seed=9).kept(), kept)


def test_memory_grows_by_the_new_bits_only() -> None:
    """Four times the weights cost a bit each: nothing else is made of the model's size."""
    peaks, sizes = [], (2**20, 2**22)
    for size in sizes:
        prunable = PrunableSet(names=("a",), shapes=((size // 1024, 1024),))
        weights = {"a": np.random.default_rng(0).standard_normal((size // 1024, 1024), np.float32)}
        mask = Mask.ones(prunable)
        tracemalloc.start()
        try:
            global_magnitude(weights, mask, size // 2)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 1.1 * (sizes[1] - sizes[0]) / 8
