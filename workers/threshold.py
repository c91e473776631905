"""The exact threshold of a pruning, from histograms of keys that are never all in memory.

It is a radix selection: each pass over the keys counts one digit of 16 bits, from the highest on,
among the keys that have the threshold's digits so far. Histograms of several ranks, each with
some of the keys, add up to that of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from workers.bits import Bools

Keys: TypeAlias = NDArray[np.unsignedinteger[Any]]
Counts: TypeAlias = NDArray[np.int64]

DIGIT_BITS = 16
NUM_BINS = 2**DIGIT_BITS
NUM_IN_MEMORY = 2**20  # this many keys or fewer are collected, and not streamed any more


class Part(NamedTuple):
    """Some weights that follow each other in canonical order.

    Attributes:
        start: Canonical index of the first.
        keys: What they are ranked by: uint32 or uint64 of shape (n,).
        kept: Which of them take part in the ranking; of shape (n,).
    """

    start: int
    keys: Keys
    kept: Bools


Parts: TypeAlias = Callable[[], Iterable[Part]]  # makes the same parts anew at each call


class Threshold(NamedTuple):
    """The largest key to remove, at least in part.

    Attributes:
        key: Its value.
        num_below: Smaller keys among all that take part.
        num_ties: Keys equal to it.
    """

    key: int
    num_below: int
    num_ties: int


def _alone(counts: Counts) -> Counts:
    return counts


def find_threshold(
    parts: Parts,
    num_key_bits: int,
    num_removed: int,
    reduce: Callable[[Counts], Counts] = _alone,
    num_in_memory: int = NUM_IN_MEMORY,
) -> Threshold:
    """Return the ``num_removed``-th smallest key; the threshold of removing nothing is 0.

    Args:
        parts: Makes the keys, or this rank's share of them; called up to once for each digit.
        num_key_bits: 32 or 64.
        num_removed: Keys to remove, of all ranks; no more than take part.
        reduce: Given this rank's histogram, of shape (65536,), returns the sum over all ranks.
            Every rank calls it equally often.
        num_in_memory: Keys, of all ranks, that may be collected instead of making them again.
    """
    if num_removed == 0:
        return Threshold(0, 0, 0)
    prefix, num_below, num_ties = 0, 0, 0
    for shift in range(num_key_bits - DIGIT_BITS, -1, -DIGIT_BITS):
        counts = reduce(_histogram(parts, prefix, shift))
        digit = int(np.searchsorted(np.cumsum(counts), num_removed - num_below))
        assert digit < NUM_BINS, "more keys to remove than take part"
        num_below, num_ties = num_below + int(counts[:digit].sum()), int(counts[digit])
        prefix = prefix << DIGIT_BITS | digit
        # Before the last digit, collecting would cost the pass that it saves.
        if shift > DIGIT_BITS and num_ties <= num_in_memory:
            parts = _collected(parts, prefix, shift)
    return Threshold(prefix, num_below, num_ties)


def survivors(parts: Parts, threshold: Threshold, num_removed: int) -> Iterator[tuple[int, Bools]]:
    """Yield what is kept of each part, after its start, once ``num_removed`` keys are removed.

    Of keys equal to the threshold, those of lowest canonical index go.
    """
    num_left = num_removed - threshold.num_below
    for start, keys, kept in parts():
        still_kept = kept & (keys >= threshold.key)
        if num_left:
            ties = np.flatnonzero(still_kept & (keys == threshold.key))[:num_left]
            still_kept[ties] = False
            num_left -= len(ties)
        yield start, still_kept


def _histogram(parts: Parts, prefix: int, shift: int) -> Counts:
    """Count the digit at ``shift`` among the keys whose higher digits are ``prefix``."""
    counts = np.zeros(NUM_BINS, dtype=np.int64)
    for part in parts():
        digits = (_matching(part, prefix, shift + DIGIT_BITS) >> shift).astype(np.uint16)
        counts += np.bincount(digits, minlength=NUM_BINS)
    return counts


def _collected(parts: Parts, prefix: int, shift: int) -> Parts:
    """Return parts that hold in memory the keys whose digits from ``shift`` on are ``prefix``."""
    found = [_matching(part, prefix, shift) for part in parts()]
    if not found:
        return parts
    keys = np.concatenate(found)
    part = Part(0, keys, np.ones(len(keys), dtype=np.bool_))
    return lambda: [part]


def _matching(part: Part, prefix: int, shift: int) -> Keys:
    """Return the keys that take part and are ``prefix`` without their ``shift`` low bits."""
    is_in = part.kept
    if shift < 8 * part.keys.itemsize:
        is_in = is_in & (part.keys >> shift == prefix)
    # Where half of it is true, np.compress is several times as fast as part.keys[is_in].
    return part.keys if is_in.all() else np.compress(is_in, part.keys)
