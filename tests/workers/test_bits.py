"""Packed bits can be read, set and counted from any bit to any bit."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.bits import CHUNK, chunks, count_bits, count_ones, read_bits, set_bits

BITS = st.lists(st.booleans(), min_size=1, max_size=200)


@settings(deadline=None)  # the machine may be busy
@given(BITS, st.data())
def test_reading_and_counting_equal_those_of_bools(values: list[bool], data: st.DataObject) -> None:
    """Any stretch, empty ones and those within one byte included, is that of the bools."""
    start = data.draw(st.integers(0, len(values)))
    place = slice(start, data.draw(st.integers(start, len(values))))
    bits = np.packbits(values)
    assert read_bits(bits, place).tolist() == values[place]
    assert count_bits(bits, place) == sum(values[place])
    assert count_ones(bits) == sum(values)


@settings(deadline=None)  # the machine may be busy
@given(BITS, st.data())
def test_set_stretch_by_stretch_they_are_packed_as_one(
    values: list[bool], data: st.DataObject
) -> None:
    """Cut anywhere, and set in any order, the stretches give what NumPy packs at once."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(values)), max_size=5)) | {0, len(values)})
    places = [slice(*pair) for pair in pairwise(cuts)]
    bits = np.zeros(-(-len(values) // 8), dtype=np.uint8)
    for place in data.draw(st.permutations(places)):
        set_bits(bits, place.start, np.array(values[place]))
    assert bits.tolist() == np.packbits(values).tolist()


@pytest.mark.parametrize("start", [0, 5, 64])
def test_long_stretches_are_counted_in_chunks(start: int) -> None:
    """Counting goes on over chunks of bytes and of words, whatever remains at the end."""
    values = np.random.default_rng(0).random(64 * CHUNK + 77) < 0.3
    place = slice(start, len(values) - 3)
    assert count_bits(np.packbits(values), place) == values[place].sum()


def test_chunks_follow_each_other() -> None:
    """Chunks are consecutive, of the chunk's size but for the last, and of nothing are none."""
    assert list(chunks(slice(3, 3))) == []
    places = list(chunks(slice(3, 2 * CHUNK + 4)))
    assert places == [
        slice(3, CHUNK + 3),
        slice(CHUNK + 3, 2 * CHUNK + 3),
        slice(2 * CHUNK + 3, 2 * CHUNK + 4),
    ]
