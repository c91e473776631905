"""A lineage is nested masks, or the round at which each weight was pruned: one says the other."""

import numpy as np
import pytest

from search_spaces.prunable import PrunableSet
from workers.lineage import MAX_ROUNDS, NEVER, Lineage, LineageError
from workers.mask import Mask, MaskMismatchError

SET = PrunableSet(names=("a", "b"), shapes=((1, 3), (2, 4)))
ROUNDS = [0, NEVER, 1, 2, NEVER, 1, 1, NEVER, 0, 0, NEVER]  # a: 3 weights, b: 8


def at_round(round_index: int) -> Mask:
    """Return the mask to which a round prunes."""
    return Mask.from_bool(SET, np.array(ROUNDS) > round_index)


LINEAGE = Lineage(tuple(map(at_round, range(3))))


def test_pruned_at_is_the_round_that_removed_a_weight() -> None:
    """Each weight's round is the first whose mask lacks it, and 255 if the last one has it."""
    assert LINEAGE.num_rounds == 3
    assert LINEAGE.prunable == SET
    assert LINEAGE.pruned_at("a").tolist() == [ROUNDS[:3]]
    assert LINEAGE.pruned_at("b").tolist() == [ROUNDS[3:7], ROUNDS[7:]]
    assert LINEAGE.pruned_at("b").dtype == np.uint8


def test_the_longest_lineage_has_254_rounds() -> None:
    """All rounds of the longest lineage are told apart from never."""
    one = PrunableSet(names=("a",), shapes=((1, 255),))
    masks = [Mask.from_bool(one, np.arange(255) > index) for index in range(MAX_ROUNDS + 1)]
    rounds = Lineage(tuple(masks[:MAX_ROUNDS])).pruned_at("a")
    assert rounds.tolist() == [[*range(254), NEVER]]
    with pytest.raises(LineageError, match=r"255 masks was given, but it has 1 to 254\. Give"):
        Lineage(tuple(masks))


def test_no_masks_are_no_lineage() -> None:
    """A lineage has at least one mask."""
    with pytest.raises(LineageError, match="0 masks was given, but it has 1 to 254"):
        Lineage(())


def test_masks_that_are_not_nested_are_refused() -> None:
    """The message says which round brings back how many weights, and where the first is."""
    expected = "round 2 keeps 1 of the weights that round 1 had pruned, the first of them in b. G"
    with pytest.raises(LineageError, match=expected):
        Lineage((at_round(0), at_round(2), at_round(1)))
    with pytest.raises(LineageError, match=r"round 1 keeps 3 of .* round 0 .* them in a\. Give"):
        Lineage((at_round(0), Mask.ones(SET)))


def test_masks_of_two_models_are_refused() -> None:
    """The masks of a lineage cover the same matrices."""
    other = PrunableSet(names=("a", "c"), shapes=SET.shapes)
    with pytest.raises(MaskMismatchError, match="Compare masks of one model"):
        Lineage((Mask.ones(SET), Mask.ones(other)))


@pytest.mark.parametrize("round_index", [-1, 3])
def test_other_rounds_are_refused(round_index: int) -> None:
    """A round that the lineage has not is no mask, also if it counts from the end."""
    assert LINEAGE.mask(2).sha256 == at_round(2).sha256
    with pytest.raises(IndexError, match=f"round_index is {round_index}, but .* rounds 0 to 2"):
        LINEAGE.mask(round_index)
