"""A mask: which weights of a prunable set are kept, one bit each, with a name by content."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np

from search_spaces.canonical import short
from search_spaces.contracts import MaskInfo
from search_spaces.prunable import PrunableSet
from workers.bits import Bools, Bytes, chunks, count_bits, count_ones, read_bits, set_bits

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
        num_bytes, num_unused = -(-prunable.num_weights // 8), -prunable.num_weights % 8
        bits = np.full(num_bytes, 0xFF, dtype=np.uint8)
        bits[-1:] <<= num_unused
        return cls(prunable, bits)

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
            set_bits(bits, place.start, kept.ravel())
        return cls(prunable, bits)

    def kept(self) -> Bools:
        """Return a new bool array of shape (N,): true = kept."""
        return read_bits(self.bits, slice(0, self.prunable.num_weights))

    def matrix(self, name: str) -> Bools:
        """Return one matrix's part as a new bool array of the matrix's shape.

        Raises:
            KeyError: The prunable set has no such matrix.
        """
        kept = read_bits(self.bits, self._places[name])
        return kept.reshape(self.prunable.shapes[self.prunable.names.index(name)])

    @cached_property
    def num_kept(self) -> int:
        """Weights that are kept."""
        return count_ones(self.bits)

    @property
    def num_removed(self) -> int:
        """K: weights that are not kept."""
        return self.prunable.num_weights - self.num_kept

    @cached_property
    def kept_per_matrix(self) -> dict[str, int]:
        """Weights that are kept of each matrix, by name."""
        return {name: count_bits(self.bits, place) for name, place in self._places.items()}

    @property
    def sparsity_per_matrix(self) -> dict[str, float]:
        """Removed weights of each matrix as a share of its weights, by name."""
        return {name: 1 - share for name, share in self._kept_shares().items()}

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the prunable set's sha256, as text, followed by the packed bits."""
        digest = hashlib.sha256(self.prunable.sha256.encode())
        digest.update(self.bits.data)
        return digest.hexdigest()

    def info(self, num_ties: int = 0) -> MaskInfo:
        """Return what the mask is, without its bits.

        Args:
            num_ties: Weights equal to the pruning threshold, as the pruner counted them.
        """
        shares = self._kept_shares()
        return MaskInfo(
            sha256=self.sha256,
            num_weights=self.prunable.num_weights,
            num_removed=self.num_removed,
            num_ties=num_ties,
            kept_per_matrix=self.kept_per_matrix,
            sparsity_per_matrix=self.sparsity_per_matrix,
            collapsed=tuple(name for name in shares if shares[name] < COLLAPSED_BELOW),
        )

    def is_subset_of(self, other: Mask) -> bool:
        """Return whether ``other`` keeps every weight that this mask keeps.

        Raises:
            MaskMismatchError: The masks belong to different prunable sets.
        """
        self.check_comparable(other)
        places = chunks(slice(0, len(self.bits)))
        return not any((self.bits[place] & ~other.bits[place]).any() for place in places)

    def widened(self, prunable: PrunableSet) -> Mask:
        """Return the mask over further matrices too, of which every weight is kept.

        Raises:
            MaskMismatchError: This mask has a matrix that ``prunable`` lacks.
        """
        shapes = dict(zip(prunable.names, prunable.shapes, strict=True))
        own = dict(zip(self.prunable.names, self.prunable.shapes, strict=True))
        if any(shapes.get(name) != shape for name, shape in own.items()):
            raise MaskMismatchError(
                f"A mask over {describe(self.prunable)} cannot be widened to "
                f"{describe(prunable)}, which lacks some of its matrices. "
                "Give a mask of the same model."
            )
        matrices = (
            self.matrix(name) if name in own else np.ones(shape, dtype=np.bool_)
            for name, shape in shapes.items()
        )
        return Mask.from_matrices(prunable, matrices)

    def check_comparable(self, other: Mask) -> None:
        """Refuse a mask of another prunable set.

        Raises:
            MaskMismatchError: The masks belong to different prunable sets.
        """
        if self.prunable != other.prunable:
            raise MaskMismatchError(
                f"Two masks cannot be compared: one is over {describe(self.prunable)}, the "
                f"other over {describe(other.prunable)}. Compare masks of one model."
            )

    @cached_property
    def _places(self) -> dict[str, slice]:
        return matrix_slices(self.prunable)

    def _kept_shares(self) -> dict[str, float]:
        sizes = dict(zip(self.prunable.names, map(math.prod, self.prunable.shapes), strict=True))
        return {name: kept / sizes[name] for name, kept in self.kept_per_matrix.items()}


def describe(prunable: PrunableSet) -> str:
    """Return a prunable set in words, for messages."""
    return (
        f"the prunable set {short(prunable.sha256)} ({len(prunable.names)} matrices, "
        f"{prunable.num_weights} weights)"
    )
