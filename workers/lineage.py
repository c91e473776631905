"""A lineage's masks, each within the one before: the round at which each weight was pruned."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from search_spaces.prunable import PrunableSet
from workers.mask import Mask, matrix_slices

MAX_ROUNDS = 254
NEVER = 255  # in place of a round, for weights that the last mask keeps


class LineageError(ValueError):
    """Masks are not the chain of one lineage."""


@dataclass(frozen=True, eq=False)
class Lineage:
    """The masks of a lineage's rounds.

    Attributes:
        masks: ``masks[r]`` is the mask to which round r pruned; round 0 is dense, so the first
            mask is the first that removes weights.

    Raises:
        LineageError: There are no masks or more than 254, or one keeps what one before removed.
        MaskMismatchError: The masks belong to different prunable sets.
    """

    masks: tuple[Mask, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.masks) <= MAX_ROUNDS:
            raise LineageError(
                f"A lineage of {len(self.masks)} masks was given, but it has 1 to {MAX_ROUNDS}. "
                "Give the mask of each round, in their order."
            )
        for round_index, (before, mask) in enumerate(pairwise(self.masks), start=1):
            if not mask.is_subset_of(before):
                raise LineageError(_not_nested(before, mask, round_index))

    @property
    def prunable(self) -> PrunableSet:
        """The matrices that all the masks cover."""
        return self.masks[0].prunable

    @property
    def num_rounds(self) -> int:
        """How many rounds pruned."""
        return len(self.masks)

    def mask(self, round_index: int) -> Mask:
        """Return the mask to which a round pruned.

        Raises:
            IndexError: The lineage has no such round.
        """
        if not 0 <= round_index < self.num_rounds:
            raise IndexError(
                f"round_index is {round_index}, but the lineage has the rounds 0 to "
                f"{self.num_rounds - 1}."
            )
        return self.masks[round_index]

    def pruned_at(self, name: str) -> NDArray[np.uint8]:
        """Return the round at which each weight of a matrix was pruned, or 255 for never.

        Args:
            name: The matrix's canonical name; the result has its shape.

        Raises:
            KeyError: The prunable set has no such matrix.
        """
        rounds = self.masks[0].matrix(name).astype(np.uint8)
        for mask in self.masks[1:]:
            rounds += mask.matrix(name)  # the masks that keep a weight are those before its round
        rounds[rounds == self.num_rounds] = NEVER
        return rounds


def _not_nested(before: Mask, mask: Mask, round_index: int) -> str:
    extra = mask.bits & ~before.bits
    byte = int(np.flatnonzero(extra)[0])
    first = 8 * byte + 8 - int(extra[byte]).bit_length()
    places = matrix_slices(mask.prunable).items()
    matrix = next(name for name, place in places if first < place.stop)
    num_extra = int(np.bitwise_count(extra).sum())
    return (
        f"The mask of round {round_index} keeps {num_extra} of the weights that "
        f"round {round_index - 1} had pruned, the first of them in {matrix}. Give the masks "
        "of one lineage, in the order of its rounds."
    )
