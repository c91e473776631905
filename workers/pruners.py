"""Pruners: which weights to remove, to the exact count (method rule 8, 9 and 11).

Every pruner here gives each weight a sort key and removes the smallest; of equal keys, the
weight with the lowest canonical index goes first. Keys are made some at a time, and again for
each pass over them: beside the new mask's bits a pruner needs some MB, whatever the model's size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_spaces.prunable import PrunableSet
from workers.bits import Bytes, chunks, read_bits, set_bits
from workers.failures import NotFiniteError
from workers.mask import Mask, matrix_slices
from workers.seeds import random_words
from workers.threshold import Part, Parts, find_threshold, survivors

Weights: TypeAlias = Mapping[str, NDArray[np.float32]]
_ALL_BUT_SIGN = np.uint32(0x7FFFFFFF)  # of fp32; as integers, these bits sort like magnitudes
_MAGNITUDE_BITS, _WORD_BITS = 32, 64  # of a sort key
WORDS_IN_MEMORY = 2**22  # 32 MiB: a matrix of BERT-large is drawn once, not for each pass


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
    _check_weights(weights, mask.prunable)
    bits = _no_bits(mask.prunable)
    parts = partial(_magnitudes, weights, mask, mask.prunable.names)
    num_ties = _prune(bits, parts, _MAGNITUDE_BITS, num_removed - mask.num_removed)
    return Pruned(Mask(mask.prunable, bits), num_ties)


def layerwise_magnitude(weights: Weights, mask: Mask, num_removed: int) -> Pruned:
    """Remove the smallest surviving weights of each matrix, at about equal sparsity in each.

    Arguments and errors as for ``global_magnitude``; ties are counted over all matrices.
    """
    _check_count(num_removed, mask.num_removed, mask.prunable.num_weights)
    _check_weights(weights, mask.prunable)
    names, sizes = mask.prunable.names, [math.prod(shape) for shape in mask.prunable.shapes]
    removed = [size - mask.kept_per_matrix[name] for name, size in zip(names, sizes, strict=True)]
    quotas = layerwise_quotas(sizes, removed, num_removed)
    bits, num_ties = _no_bits(mask.prunable), 0
    for name, quota, count in zip(names, quotas, removed, strict=True):
        parts = partial(_magnitudes, weights, mask, (name,))
        num_ties += _prune(bits, parts, _MAGNITUDE_BITS, quota - count)
    return Pruned(Mask(mask.prunable, bits), num_ties)


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
    bits = _no_bits(prunable)
    place = slice(0, prunable.num_weights)
    _prune(bits, _random_parts(seed, place), _WORD_BITS, num_removed)
    return Mask(prunable, bits)


def random_layerwise(reference: Mask, seed: int) -> Mask:
    """Remove random weights of each matrix, as many as ``reference`` removes from it.

    Args:
        reference: The mask whose counts to use.
        seed: 64 bits, from ``workers.seeds.stream``.
    """
    prunable = reference.prunable
    bits = _no_bits(prunable)
    for name, place in matrix_slices(prunable).items():
        num_removed = place.stop - place.start - reference.kept_per_matrix[name]
        _prune(bits, _random_parts(seed, place), _WORD_BITS, num_removed)
    return Mask(prunable, bits)


def _check_count(num_removed: int, already: int, num_weights: int) -> None:
    if not already <= num_removed < num_weights:
        raise PruneError(
            f"num_removed is {num_removed}, but the mask already removes {already} of "
            f"{num_weights} weights and one must be left: give {already} to {num_weights - 1}."
        )


def _check_weights(weights: Weights, prunable: PrunableSet) -> None:
    for name, shape in zip(prunable.names, prunable.shapes, strict=True):
        _check_matrix(name, weights.get(name), shape)
        if np.isnan(weights[name].max(initial=0)):  # max propagates NaN
            raise WeightsNotFiniteError(
                f"{name} holds NaN, so its weights have no order. The training diverged: lower "
                "the learning rate or take another seed."
            )


def _check_matrix(name: str, weight: NDArray[np.float32] | None, shape: tuple[int, int]) -> None:
    given = "missing" if weight is None else f"{weight.dtype} of shape {weight.shape}"
    expected = f"{np.dtype(np.float32)} of shape {shape}"
    if given != expected:
        raise PruneError(f"{name} is {given}, but must be {expected}. Give the fp32 masters.")


def _no_bits(prunable: PrunableSet) -> Bytes:
    return np.zeros(-(-prunable.num_weights // 8), dtype=np.uint8)


def _prune(bits: Bytes, parts: Parts, num_key_bits: int, num_more: int) -> int:
    """Set the bits of all but the ``num_more`` smallest keys; return the ties at the threshold."""
    threshold = find_threshold(parts, num_key_bits, num_more)
    for start, kept in survivors(parts, threshold, num_more):
        set_bits(bits, start, kept)
    return threshold.num_ties


def _magnitudes(weights: Weights, mask: Mask, names: Sequence[str]) -> Iterator[Part]:
    """Yield the magnitudes of some matrices, and which of them survived, in canonical order."""
    places = matrix_slices(mask.prunable)
    for name in names:
        first, values = places[name].start, weights[name].reshape(-1).view(np.uint32)
        for place in chunks(places[name]):
            keys = values[place.start - first : place.stop - first] & _ALL_BUT_SIGN
            yield Part(place.start, keys, read_bits(mask.bits, place))


def _random_parts(seed: int, place: slice) -> Parts:
    """Return the random words of a place, made once where it is small."""
    if place.stop - place.start > WORDS_IN_MEMORY:
        return partial(_words, seed, place)
    parts = list(_words(seed, place))
    return lambda: parts


def _words(seed: int, place: slice) -> Iterator[Part]:
    """Yield the random words of a place in the canonical concatenation; all take part."""
    for chunk in chunks(place):
        size = chunk.stop - chunk.start
        keys = random_words(seed, size, chunk.start)
        yield Part(chunk.start, keys, np.ones(size, dtype=np.bool_))


def _largest_remainder(sizes: Sequence[int], total: int) -> list[int]:
    """Share ``total`` in proportion to ``sizes``; of equal remainders the first gets more."""
    whole = sum(sizes)
    shares = [total * size // whole for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: -(total * sizes[i] % whole))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares
