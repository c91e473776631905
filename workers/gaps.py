"""Rare flags as the gaps between them, a byte each, which zstd brings near their entropy.

A bitmap costs zstd at least one bit for each byte of it, however rare its set bits are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MORE = 255  # 255 flags that are not set, and the gap goes on


def encode_gaps(flags: NDArray[np.bool_]) -> bytes:
    """Return how many flags are not set before each that is; those after the last are left out.

    Args:
        flags: Shape (n,).
    """
    gaps = np.diff(np.flatnonzero(flags), prepend=-1) - 1
    num_more, last = np.divmod(gaps, _MORE)
    coded = np.full(len(gaps) + int(num_more.sum()), _MORE, dtype=np.uint8)
    coded[np.cumsum(num_more + 1) - 1] = last
    return coded.tobytes()


def decode_gaps(data: bytes, size: int) -> NDArray[np.bool_]:
    """Return the flags, of shape (size,), that ``encode_gaps`` was given.

    Raises:
        IndexError: The gaps lead beyond ``size`` flags.
    """
    coded = np.frombuffer(data, dtype=np.uint8)
    ends = np.cumsum(coded, dtype=np.int64) + np.cumsum(coded < _MORE) - 1
    flags = np.zeros(size, dtype=np.bool_)
    flags[ends[coded < _MORE]] = True
    return flags
