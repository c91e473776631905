"""Packed bits, as ``np.packbits`` orders them: stretches that begin and end at any bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
CHUNK = 2**17  # items handled at once: few enough to stay in the processor's cache


def chunks(place: slice) -> Iterator[slice]:
    """Cut a place into consecutive slices of at most ``CHUNK`` items."""
    for start in range(place.start, place.stop, CHUNK):
        yield slice(start, min(start + CHUNK, place.stop))


def read_bits(bits: Bytes, place: slice) -> Bools:
    """Return the bits of a place as bools.

    Args:
        bits: Packed bits, of shape (ceil(N / 8),).
        place: Where they lie, in bits.
    """
    first, offset = divmod(place.start, 8)
    values = np.unpackbits(bits[first : -(-place.stop // 8)], count=place.stop - 8 * first)
    return values[offset:].view(np.bool_)


def set_bits(bits: Bytes, start: int, values: Bools) -> None:
    """Set the bits where ``values`` is true, from the bit ``start`` on; the others stay."""
    first, offset = divmod(start, 8)
    packed = np.packbits(np.pad(values, (offset, 0)) if offset else values)
    bits[first : first + len(packed)] |= packed


def count_bits(bits: Bytes, place: slice) -> int:
    """Return how many bits of a place are 1; only bytes that lie in it in part are unpacked."""
    first, last = -(-place.start // 8), place.stop // 8
    if first > last:  # within one byte
        return int(read_bits(bits, place).sum())
    edges = slice(place.start, 8 * first), slice(8 * last, place.stop)
    return sum(int(read_bits(bits, edge).sum()) for edge in edges) + count_ones(bits[first:last])


def count_ones(packed: Bytes) -> int:
    """Return how many bits of whole bytes are 1."""
    num_words = len(packed) // 8
    words, rest = packed[: 8 * num_words].view(np.uint64), packed[8 * num_words :]
    return sum(
        int(np.bitwise_count(part[chunk]).sum(dtype=np.int64))
        for part in (words, rest)
        for chunk in chunks(slice(0, len(part)))
    )
