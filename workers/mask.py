"""A mask: which weights of a prunable set are kept, one bit each, with a name by content."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from search_spaces.canonical import short
from search_spaces.contracts import MaskInfo
from search_spaces.prunable import PrunableSet

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
COLLAPSED_BELOW = 0.01  # share of kept weights under which a matrix is flagged (method rule 9)


class MaskMismatchError(ValueError):
    """A mask, or a mask file, belongs to another prunable set."""


def matrix_slices(prunable: PrunableSet) -> dict[str, slice]:
    """Return where each matrix lies in the canonical concatenation, by name."""
    sizes = (math.prod(shape) for shape in prunable.shapes)
    bounds = pairwise(accumulate(sizes, initial=0))
    return {
        name: slice(start, stop) for name, (start, stop) in zip(prunable.names, bounds, strict=True)
    }


@dataclass(frozen=True, eq=False)
class Mask:
    """Which weights of a prunable set are kept; compare masks by ``sha256``.

    Attributes:
        prunable: The matrices, in canonical order.
        bits: ``np.packbits`` of the canonical concatenation, row-major: 1 = kept; uint8 of
            shape (ceil(N / 8),), unused last bits 0; read-only.
    """

    prunable: PrunableSet
    bits: Bytes

    def __post_init__(self) -> None:
        num_weights = self.prunable.num_weights
        assert self.bits.dtype == np.uint8 and self.bits.shape == (-(-num_weights // 8),)
        assert not np.unpackbits(self.bits[-1:])[num_weights % 8 or 8 :].any()
        self.bits.setflags(write=False)

    @classmethod
    def ones(cls, prunable: PrunableSet) -> Mask:
        """Return the mask that keeps every weight."""
        return cls.from_bool(prunable, np.ones(prunable.num_weights, dtype=np.bool_))

    @classmethod
    def from_bool(cls, prunable: PrunableSet, kept: Bools) -> Mask:
        """Return the mask that keeps the weights where ``kept``, of shape (N,), is true.

        Raises:
            MaskMismatchError: ``kept`` is not a bool array of shape (N,).
        """
        if kept.dtype != np.bool_ or kept.shape != (prunable.num_weights,):
            raise MaskMismatchError(
                f"A mask over {describe(prunable)} needs a bool array of shape "
                f"({prunable.num_weights},), but was given {kept.dtype} of shape {kept.shape}. "
                "Concatenate all prunable matrices in canonical order, row-major."
            )
        return cls(prunable, np.packbits(kept))

    @classmethod
    def from_matrices(cls, prunable: PrunableSet, matrices: Iterable[Bools]) -> Mask:
        """Return the mask of bool arrays, one for each matrix, in canonical order.

        Takes one matrix at a time: besides the packed bits, one is in memory.
        """
        bits = np.zeros(-(-prunable.num_weights // 8), dtype=np.uint8)
        for place, kept in zip(matrix_slices(prunable).values(), matrices, strict=True):
            assert kept.dtype == np.bool_ and kept.size == place.stop - place.start
            lead = np.zeros(place.start % 8, dtype=np.bool_)  # bits of the matrix before
            packed = np.packbits(np.concatenate([lead, kept.ravel()]))
            bits[place.start // 8 : -(-place.stop // 8)] |= packed
        return cls(prunable, bits)

    def kept(self) -> Bools:
        """Return a new bool array of shape (N,): true = kept."""
        num_weights = self.prunable.num_weights
        return np.unpackbits(self.bits, count=num_weights).view(np.bool_)

    def matrix(self, name: str) -> Bools:
        """Return one matrix's part as a new bool array of the matrix's shape.

        Raises:
            KeyError: The prunable set has no such matrix.
        """
        place = matrix_slices(self.prunable)[name]
        first = place.start // 8  # a matrix need not begin at a whole byte
        bits = np.unpackbits(self.bits[first : -(-place.stop // 8)])
        kept = bits[place.start - 8 * first : place.stop - 8 * first].view(np.bool_)
        return kept.reshape(self.prunable.shapes[self.prunable.names.index(name)]).copy()

    @cached_property
    def num_removed(self) -> int:
        """K: weights that are not kept."""
        num_kept = int(np.bitwise_count(self.bits).sum(dtype=np.int64))
        return self.prunable.num_weights - num_kept

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the prunable set's sha256, as text, followed by the packed bits."""
        digest = hashlib.sha256(self.prunable.sha256.encode())
        digest.update(self.bits.tobytes())
        return digest.hexdigest()

    def info(self, num_ties: int = 0) -> MaskInfo:
        """Return what the mask is, without its bits.

        Args:
            num_ties: Weights equal to the pruning threshold, as the pruner counted them.
        """
        kept = self.kept()
        places = matrix_slices(self.prunable)
        counts = {name: int(np.count_nonzero(kept[place])) for name, place in places.items()}
        shares = {name: counts[name] / (place.stop - place.start) for name, place in places.items()}
        return MaskInfo(
            sha256=self.sha256,
            num_weights=self.prunable.num_weights,
            num_removed=self.num_removed,
            num_ties=num_ties,
            kept_per_matrix=counts,
            sparsity_per_matrix={name: 1 - share for name, share in shares.items()},
            collapsed=tuple(name for name in counts if shares[name] < COLLAPSED_BELOW),
        )

    def is_subset_of(self, other: Mask) -> bool:
        """Return whether ``other`` keeps every weight that this mask keeps.

        Raises:
            MaskMismatchError: The masks belong to different prunable sets.
        """
        if self.prunable != other.prunable:
            raise MaskMismatchError(
                f"Two masks cannot be compared: one is over {describe(self.prunable)}, the "
                f"other over {describe(other.prunable)}. Compare masks of one model."
            )
        return not bool((self.bits & ~other.bits).any())


def describe(prunable: PrunableSet) -> str:
    """Return a prunable set in words, for messages."""
    return (
        f"the prunable set {short(prunable.sha256)} ({len(prunable.names)} matrices, "
        f"{prunable.num_weights} weights)"
    )
