"""A mask is its bits over one prunable set, and its name is their content."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.prunable import PrunableSet
from workers.mask import Mask, MaskMismatchError

SMALL = PrunableSet(names=("a", "b", "c"), shapes=((1, 3), (2, 4), (3, 1)))  # b: bits 3 to 10
KEPT = np.array([1, 0, 1, 0, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1], dtype=np.bool_)


def test_bits_are_packed_in_canonical_order() -> None:
    """The packed bytes are the concatenation, first weight in the highest bit."""
    mask = Mask.from_bool(SMALL, KEPT)
    assert mask.bits.tolist() == [0b10101100, 0b00101100]
    assert mask.kept().tolist() == KEPT.tolist()
    assert mask.num_removed == 7


def test_matrix_is_cut_at_any_bit() -> None:
    """Each matrix is its own part, row-major, though none but the first begins at a byte."""
    mask = Mask.from_bool(SMALL, KEPT)
    assert mask.matrix("a").tolist() == [[True, False, True]]
    assert mask.matrix("b").astype(int).tolist() == [[0, 1, 1, 0], [0, 0, 0, 1]]
    assert mask.matrix("c").astype(int).tolist() == [[0], [1], [1]]


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=5), st.data())
def test_matrices_and_bits_say_the_same(shapes: list[tuple[int, int]], data: st.DataObject) -> None:
    """For any shapes, the matrices put together are the bools that the mask was made of."""
    prunable = PrunableSet(names=tuple(map(str, range(len(shapes)))), shapes=tuple(shapes))
    size = prunable.num_weights
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    mask = Mask.from_bool(prunable, kept)
    parts = [mask.matrix(name) for name in prunable.names]
    assert [part.shape for part in parts] == shapes
    assert np.array_equal(np.concatenate([part.ravel() for part in parts]), kept)
    assert mask.num_removed == size - kept.sum()
    assert Mask.from_matrices(prunable, parts).bits.tolist() == mask.bits.tolist()


def test_ones_keeps_all() -> None:
    """The dense mask removes nothing, and its unused last bits are 0."""
    mask = Mask.ones(SMALL)
    assert mask.num_removed == 0
    assert mask.bits.tolist() == [0xFF, 0xFC]


def test_sha256_is_of_prunable_set_and_bits() -> None:
    """Equal bits over sets of other names are other masks."""
    mask = Mask.from_bool(SMALL, KEPT)
    expected = hashlib.sha256(SMALL.sha256.encode() + bytes([0b10101100, 0b00101100]))
    renamed = PrunableSet(names=("a", "b", "d"), shapes=SMALL.shapes)
    assert mask.sha256 == expected.hexdigest()
    assert Mask.from_bool(renamed, KEPT).sha256 != mask.sha256


def test_info_counts_each_matrix_and_flags_the_collapsed() -> None:
    """Under 1% kept is collapsed; exactly 1% is not (method rule 9)."""
    prunable = PrunableSet(names=("one", "none", "all"), shapes=((10, 10), (10, 20), (1, 4)))
    kept = np.ones(304, dtype=np.bool_)
    kept[1:100] = False  # "one": 1 of 100
    kept[101:300] = False  # "none": 1 of 200
    info = Mask.from_bool(prunable, kept).info(num_ties=5)
    assert info.kept_per_matrix == {"one": 1, "none": 1, "all": 4}
    assert info.sparsity_per_matrix == {"one": 0.99, "none": 0.995, "all": 0.0}
    assert info.collapsed == ("none",)
    assert (info.num_weights, info.num_removed, info.num_ties) == (304, 298, 5)


def test_subset_is_about_kept_weights() -> None:
    """A sparser mask of a lineage is a subset of the mask it was pruned from, not the reverse."""
    mask, dense = Mask.from_bool(SMALL, KEPT), Mask.ones(SMALL)
    assert mask.is_subset_of(dense) and mask.is_subset_of(mask)
    assert not dense.is_subset_of(mask)


def test_bits_cannot_be_written() -> None:
    """A mask cannot be changed behind its name."""
    with pytest.raises(ValueError, match="read-only"):
        Mask.ones(SMALL).bits[0] = 0


def test_other_sets_are_refused() -> None:
    """Masks of two models are never compared, and the message names both sets."""
    other = PrunableSet(names=("a",), shapes=((2, 7),))
    with pytest.raises(
        MaskMismatchError, match=rf"{SMALL.sha256[:10]} \(3 matrices.*{other.sha256[:10]} \(1 matr"
    ):
        Mask.ones(SMALL).is_subset_of(Mask.ones(other))


@pytest.mark.parametrize("kept", [np.ones(13, dtype=np.bool_), np.ones(14, dtype=np.uint8)])
def test_wrong_arrays_are_refused(kept: np.ndarray) -> None:
    """Only a bool for every weight makes a mask."""
    with pytest.raises(MaskMismatchError, match=r"needs a bool array of shape \(14,\), but was"):
        Mask.from_bool(SMALL, kept)
