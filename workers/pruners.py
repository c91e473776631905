"""Pruners: which weights to remove, to the exact count (method rule 8, 9 and 11).

Every pruner here gives each weight a sort key and removes the smallest; of equal keys, the
weight with the lowest canonical index goes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_spaces.prunable import PrunableSet
from workers.failures import NotFiniteError
from workers.mask import Bools, Mask, matrix_slices
from workers.seeds import random_words

Weights: TypeAlias = Mapping[str, NDArray[np.float32]]
SortKeys: TypeAlias = NDArray[np.int32] | NDArray[np.uint64]
_INFINITY_BITS = 0x7F800000  # of fp32; NaN's bits, without the sign, are above


class PruneError(ValueError):
    """A mask cannot be pruned as asked."""


class WeightsNotFiniteError(PruneError, NotFiniteError):
    """Weights that shall be ranked are NaN."""


class Pruned(NamedTuple):
    """A new mask, and how many surviving weights were equal to the threshold."""

    mask: Mask
    num_ties: int


def global_magnitude(weights: Weights, mask: Mask, num_removed: int) -> Pruned:
    """Remove the surviving weights of smallest magnitude until ``num_removed`` are removed.

    Args:
        weights: The fp32 masters, each of its matrix's shape, by canonical name; others are
            ignored. The mask, and not a value of 0, says which of them survived.
        mask: The mask under which they were trained.
        num_removed: K: weights removed in the new mask.

    Raises:
        PruneError: A matrix is missing, of another shape or dtype, or K is less
            than what the mask removes, or leaves no weight.
        WeightsNotFiniteError: A matrix holds NaN.
    """
    _check_count(num_removed, mask.num_removed, mask.prunable.num_weights)
    kept = mask.kept()
    keys = _magnitudes(weights, mask.prunable)
    num_ties = _remove_smallest(keys, kept, num_removed - mask.num_removed)
    return Pruned(Mask.from_bool(mask.prunable, kept), num_ties)


def layerwise_magnitude(weights: Weights, mask: Mask, num_removed: int) -> Pruned:
    """Remove the smallest surviving weights of each matrix, at about equal sparsity in each.

    Arguments and errors as for ``global_magnitude``; ties are counted over all matrices.
    """
    _check_count(num_removed, mask.num_removed, mask.prunable.num_weights)
    kept = mask.kept()
    keys = _magnitudes(weights, mask.prunable)
    places = list(matrix_slices(mask.prunable).values())
    removed = [int(np.count_nonzero(~kept[place])) for place in places]
    quotas = layerwise_quotas([place.stop - place.start for place in places], removed, num_removed)
    num_ties = sum(
        _remove_smallest(keys[place], kept[place], quota - count)
        for place, quota, count in zip(places, quotas, removed, strict=True)
    )
    return Pruned(Mask.from_bool(mask.prunable, kept), num_ties)


def layerwise_quotas(sizes: Sequence[int], removed: Sequence[int], num_removed: int) -> list[int]:
    """Share ``num_removed`` among matrices in proportion to their sizes, by largest remainder.

    A matrix whose share is below what it has already lost keeps that count and the others share
    the rest, so that masks stay nested: largest remainders alone may fall as the total grows.

    Args:
        sizes: Weights of each matrix.
        removed: Weights already removed from each.
        num_removed: K; at least the sum of ``removed`` and less than the sum of ``sizes``.
    """
    quotas, free = list(removed), list(range(len(sizes)))
    while free:
        rest = num_removed - sum(removed[i] for i in range(len(sizes)) if i not in free)
        shares = _largest_remainder([sizes[i] for i in free], rest)
        stuck = {i for i, share in zip(free, shares, strict=True) if share < removed[i]}
        if not stuck:
            for i, share in zip(free, shares, strict=True):
                quotas[i] = share
            break
        free = [i for i in free if i not in stuck]
    return quotas


def theta0_magnitude(weights: Weights, prunable: PrunableSet, num_removed: int) -> Pruned:
    """Remove the smallest pre-trained weights: one-shot-theta0; errors as ``global_magnitude``."""
    return global_magnitude(weights, Mask.ones(prunable), num_removed)


def random_uniform(prunable: PrunableSet, num_removed: int, seed: int) -> Mask:
    """Remove the first K weights of one seeded permutation of all N: nested over K.

    Args:
        prunable: The matrices.
        num_removed: K.
        seed: 64 bits, from ``workers.seeds.stream``.

    Raises:
        PruneError: K is negative, or leaves no weight.
    """
    _check_count(num_removed, 0, prunable.num_weights)
    kept = np.ones(prunable.num_weights, dtype=np.bool_)
    _remove_smallest(random_words(seed, prunable.num_weights), kept, num_removed)
    return Mask.from_bool(prunable, kept)


def random_layerwise(reference: Mask, seed: int) -> Mask:
    """Remove random weights of each matrix, as many as ``reference`` removes from it.

    Args:
        reference: The mask whose counts to use.
        seed: 64 bits, from ``workers.seeds.stream``.
    """
    prunable = reference.prunable
    counts = reference.info().kept_per_matrix
    words = random_words(seed, prunable.num_weights)
    kept = np.ones(prunable.num_weights, dtype=np.bool_)
    for name, place in matrix_slices(prunable).items():
        num_removed = place.stop - place.start - counts[name]
        _remove_smallest(words[place], kept[place], num_removed)
    return Mask.from_bool(prunable, kept)


def _check_count(num_removed: int, already: int, num_weights: int) -> None:
    if not already <= num_removed < num_weights:
        raise PruneError(
            f"num_removed is {num_removed}, but the mask already removes {already} of "
            f"{num_weights} weights and one must be left: give {already} to {num_weights - 1}."
        )


def _magnitudes(weights: Weights, prunable: PrunableSet) -> NDArray[np.int32]:
    """Return the bits of |w| in canonical order, which as int32 sort like the magnitudes."""
    keys = np.empty(prunable.num_weights, dtype=np.int32)
    for shape, (name, place) in zip(prunable.shapes, matrix_slices(prunable).items(), strict=True):
        _check_matrix(name, weights.get(name), shape)
        np.abs(weights[name].reshape(-1), out=keys[place].view(np.float32))
        if (keys[place] > _INFINITY_BITS).any():
            raise WeightsNotFiniteError(
                f"{name} holds NaN, so its weights have no order. The training diverged: lower "
                "the learning rate or take another seed."
            )
    return keys


def _check_matrix(name: str, weight: NDArray[np.float32] | None, shape: tuple[int, int]) -> None:
    given = "missing" if weight is None else f"{weight.dtype} of shape {weight.shape}"
    expected = f"{np.dtype(np.float32)} of shape {shape}"
    if given != expected:
        raise PruneError(f"{name} is {given}, but must be {expected}. Give the fp32 masters.")


def _remove_smallest(keys: SortKeys, kept: Bools, num_more: int) -> int:
    """Clear ``kept`` at its ``num_more`` smallest keys; return how many equal the threshold."""
    if num_more == 0:
        return 0
    threshold = np.partition(keys[kept], num_more - 1)[num_more - 1]
    below = kept & (keys < threshold)
    ties = np.flatnonzero(kept & (keys == threshold))
    kept[below] = False
    kept[ties[: num_more - np.count_nonzero(below)]] = False
    return len(ties)


def _largest_remainder(sizes: Sequence[int], total: int) -> list[int]:
    """Share ``total`` in proportion to ``sizes``; of equal remainders the first gets more."""
    whole = sum(sizes)
    shares = [total * size // whole for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: -(total * sizes[i] % whole))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares
