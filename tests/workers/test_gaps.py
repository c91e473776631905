"""Gaps say which flags are set, a byte each, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.gaps import decode_gaps, encode_gaps


def test_a_gap_of_255_or_more_takes_more_bytes() -> None:
    """A byte of 255 is 255 flags that are not set; any other ends at one that is."""
    flags = np.zeros(1000, dtype=np.bool_)
    flags[[0, 1, 5, 260, 516, 900]] = True  # gaps 0, 0, 3, 254, 255, 383
    coded = encode_gaps(flags)
    assert list(coded) == [0, 0, 3, 254, 255, 0, 255, 128]
    assert np.array_equal(decode_gaps(coded, 1000), flags)


@given(st.sets(st.integers(0, 1999)), st.integers(0, 300))
def test_round_trip(positions: set[int], num_after: int) -> None:
    """Any flags come back, also none at all and none of any."""
    flags = np.zeros(max(positions, default=-1) + 1 + num_after, dtype=np.bool_)
    flags[list(positions)] = True
    assert np.array_equal(decode_gaps(encode_gaps(flags), len(flags)), flags)


def test_gaps_beyond_the_end_are_refused() -> None:
    """Gaps of more flags than there are have no meaning."""
    with pytest.raises(IndexError, match="out of bounds"):
        decode_gaps(bytes([3, 0]), 4)
