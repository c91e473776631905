"""Mask and lineage files with any bytes in them: what was written, or a documented error."""

from __future__ import annotations

import contextlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.prunable import PrunableSet
from workers.lineage_file import LineageFileError, read_lineage, write_lineage
from workers.mask import Mask, MaskMismatchError
from workers.mask_file import MaskFileError, mask_metadata, read_mask, write_mask

SET = PrunableSet(names=("a", "b"), shapes=((8, 8), (4, 4)))
RNG = np.random.default_rng(0)
KEPT = RNG.random(SET.num_weights) < 0.7
FIRST = Mask.from_bool(SET, KEPT)
SECOND = Mask.from_bool(SET, KEPT & (RNG.random(SET.num_weights) < 0.7))
MASK, LINEAGE = write_mask(FIRST, {}), write_lineage([FIRST, SECOND], {})


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Bytes with one span replaced, deleted or inserted, or any bytes at all."""

    def apply(change: tuple[int, int, bytes]) -> bytes:
        place, length, new = change
        return whole[:place] + new + whole[place + length :]

    span = st.tuples(st.integers(0, len(whole)), st.integers(0, 60), st.binary(max_size=60))
    return span.map(apply) | st.binary(max_size=300)


@settings(max_examples=60, deadline=None)
@given(damaged(MASK))
def test_no_mask_file_ends_in_a_traceback(data: bytes) -> None:
    """No damage makes another mask."""
    with contextlib.suppress(MaskFileError, MaskMismatchError):
        assert read_mask(data, SET, "a file").sha256 == FIRST.sha256
    with contextlib.suppress(MaskFileError):
        mask_metadata(data, "a file")


@settings(max_examples=60, deadline=None)
@given(damaged(LINEAGE))
def test_no_lineage_file_ends_in_a_traceback(data: bytes) -> None:
    """No damage makes another lineage."""
    with contextlib.suppress(LineageFileError, MaskMismatchError):
        found = read_lineage(data, SET, "a file")
        assert [mask.sha256 for mask in found.masks] == [FIRST.sha256, SECOND.sha256]
