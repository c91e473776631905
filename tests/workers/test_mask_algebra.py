"""Set operations on packed masks are those on their bools."""

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.prunable import PrunableSet
from workers.mask import Mask, MaskMismatchError
from workers.mask_algebra import intersection, num_common, overlap, union

SMALL = PrunableSet(names=("a", "b", "c"), shapes=((1, 3), (2, 4), (3, 1)))
FIRST = Mask.from_bool(SMALL, np.array([1, 0, 1, 0, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1], dtype=np.bool_))
SECOND = Mask.from_bool(SMALL, np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1], dtype=np.bool_))


def test_by_hand() -> None:
    """Both keep 4 weights, either keeps 8: the relative overlap is 4 / 8."""
    assert "".join(map(str, union(FIRST, SECOND).kept().astype(int))) == "11101100001011"
    assert "".join(map(str, intersection(FIRST, SECOND).kept().astype(int))) == "10001000000011"
    assert (num_common(FIRST, SECOND), overlap(FIRST, SECOND)) == (4, 0.5)


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40)), min_size=1, max_size=5), st.data()
)
def test_bits_and_bools_agree(shapes: list[tuple[int, int]], data: st.DataObject) -> None:
    """Over any shapes, each operation is what NumPy says of the two bool arrays."""
    prunable = PrunableSet(names=tuple(map(str, range(len(shapes)))), shapes=tuple(shapes))
    size = prunable.num_weights
    bools = st.lists(st.booleans(), min_size=size, max_size=size).map(np.array)
    a, b = data.draw(bools), data.draw(bools)
    first, second = Mask.from_bool(prunable, a), Mask.from_bool(prunable, b)
    assert union(first, second).kept().tolist() == (a | b).tolist()
    assert intersection(first, second).kept().tolist() == (a & b).tolist()
    assert num_common(first, second) == (a & b).sum()
    expected = (a & b).sum() / (a | b).sum() if (a | b).any() else 1.0
    assert overlap(first, second) == overlap(second, first) == expected
    parts = np.split(a, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    assert list(first.kept_per_matrix.values()) == [part.sum() for part in parts]
    assert list(first.sparsity_per_matrix.values()) == [1 - part.mean() for part in parts]


def test_a_mask_overlaps_itself_wholly_and_its_complement_not_at_all() -> None:
    """The two ends of the scale; and masks that keep nothing are equal."""
    complement = Mask.from_bool(SMALL, ~FIRST.kept())
    empty = intersection(FIRST, complement)
    assert overlap(FIRST, FIRST) == 1.0
    assert overlap(FIRST, complement) == 0.0
    assert empty.num_kept == 0 and overlap(empty, empty) == 1.0
    assert union(FIRST, complement).sha256 == Mask.ones(SMALL).sha256


@pytest.mark.parametrize("operation", [union, intersection, num_common, overlap])
def test_other_sets_are_refused(operation: Callable[[Mask, Mask], object]) -> None:
    """Masks of two models have no overlap, and the message names both sets."""
    other = PrunableSet(names=("a",), shapes=((2, 7),))
    expected = rf"{SMALL.sha256[:10]} \(3 matrices.*{other.sha256[:10]} \(1 matr"
    with pytest.raises(MaskMismatchError, match=expected):
        operation(FIRST, Mask.ones(other))


def test_nothing_is_unpacked() -> None:
    """Counts, overlap and what a mask says of itself need less memory than its packed bits."""
    prunable = PrunableSet(names=("a", "b"), shapes=((3, 5), (4096, 8192)))
    first, second = Mask.ones(prunable), Mask.ones(prunable)
    tracemalloc.start()
    try:
        assert overlap(first, second) == 1.0 and first.is_subset_of(second)
        assert first.info().sparsity_per_matrix == {"a": 0.0, "b": 0.0}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(first.bits) / 4
