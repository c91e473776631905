"""The streamed threshold is that of a full sort, however the keys come and whoever holds them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.threshold import Counts, Keys, Part, Parts, Threshold, find_threshold, survivors

# Few values, so that many keys are equal, or equal in their upper digits only.
KEYS_32 = st.sampled_from([0, 1, 2**16 - 1, 2**16, 2**16 + 1, 2**31, 2**32 - 1])
KEYS_64 = st.sampled_from([0, 1, 2**16, 2**32, 2**32 + 1, 2**48 - 1, 2**48, 2**63, 2**64 - 1])
TYPES = {32: np.uint32, 64: np.uint64}


@st.composite
def rankings(draw: st.DrawFn) -> tuple[Keys, NDArray[np.bool_], int]:
    """Draw keys of either width, which of them take part, and how many of those to remove."""
    width, values = draw(st.sampled_from([(32, KEYS_32), (64, KEYS_64)]))
    keys = np.array(draw(st.lists(values, min_size=1, max_size=40)), dtype=TYPES[width])
    kept = np.array(draw(st.lists(st.booleans(), min_size=len(keys), max_size=len(keys))))
    return keys, kept, draw(st.integers(0, int(kept.sum())))


def cut(keys: Keys, kept: NDArray[np.bool_], cuts: list[int]) -> list[Part]:
    """Cut keys into parts, empty ones included."""
    edges = [0, *cuts, len(keys)]
    places = [slice(*pair) for pair in pairwise(edges)]
    return [Part(place.start, keys[place], kept[place]) for place in places]


def by_full_sort(
    keys: Keys, kept: NDArray[np.bool_], num_removed: int
) -> tuple[Threshold, list[bool]]:
    """Find the threshold, and what is left, by one stable sort of all that take part."""
    taking_part = np.flatnonzero(kept)
    order = taking_part[np.argsort(keys[taking_part], kind="stable")]
    left = kept.copy()
    left[order[:num_removed]] = False
    if num_removed == 0:
        return Threshold(0, 0, 0), left.tolist()
    key = keys[order[num_removed - 1]]
    below, ties = (keys[order] < key).sum(), (keys[order] == key).sum()
    return Threshold(int(key), int(below), int(ties)), left.tolist()


@settings(deadline=None)  # the machine may be busy
@given(rankings(), st.lists(st.integers(0, 40), max_size=4), st.integers(0, 40))
def test_it_equals_a_full_sort(
    ranking: tuple[Keys, NDArray[np.bool_], int], cuts: list[int], num_in_memory: int
) -> None:
    """Any keys, cut anywhere, collected or not: the same threshold, ties and survivors."""
    keys, kept, num_removed = ranking
    parts = cut(keys, kept, sorted(min(at, len(keys)) for at in cuts))
    expected, left = by_full_sort(keys, kept, num_removed)
    width = 8 * keys.itemsize
    found = find_threshold(lambda: parts, width, num_removed, num_in_memory=num_in_memory)
    assert found == expected
    stretches = list(survivors(lambda: parts, found, num_removed))
    assert [start for start, _ in stretches] == [part.start for part in parts]
    assert np.concatenate([still_kept for _, still_kept in stretches]).tolist() == left


class Gang:
    """Ranks, each a thread, whose histograms are added up as an all-reduce would."""

    def __init__(self, num_ranks: int) -> None:
        self.barrier = Barrier(num_ranks)
        self.posted: list[Counts] = [np.zeros(0, dtype=np.int64)] * num_ranks

    def reducer(self, rank: int) -> Callable[[Counts], Counts]:
        def reduce(counts: Counts) -> Counts:
            self.posted[rank] = counts.copy()
            self.barrier.wait(timeout=20)
            total = np.sum(self.posted, axis=0)
            self.barrier.wait(timeout=20)
            return total

        return reduce


@settings(deadline=None, max_examples=30)
@given(rankings(), st.integers(1, 4), st.integers(0, 40))
def test_shards_find_the_threshold_of_the_whole(
    ranking: tuple[Keys, NDArray[np.bool_], int], num_ranks: int, num_in_memory: int
) -> None:
    """Every rank, also one without keys, finds key and counts of all ranks' keys together."""
    keys, kept, num_removed = ranking
    gang, width = Gang(num_ranks), 8 * keys.itemsize

    def search(rank: int) -> Threshold:
        mine = slice(rank, None, num_ranks)
        parts = [Part(0, keys[mine], kept[mine])] if len(keys[mine]) else []
        return find_threshold(lambda: parts, width, num_removed, gang.reducer(rank), num_in_memory)

    with ThreadPoolExecutor(num_ranks) as pool:
        found = list(pool.map(search, range(num_ranks)))
    assert found == [by_full_sort(keys, kept, num_removed)[0]] * num_ranks


class Counted:
    """Parts that count how often they are made."""

    def __init__(self, keys: Keys) -> None:
        self.keys, self.num_passes = keys, 0

    def __call__(self) -> Iterator[Part]:
        self.num_passes += 1
        half = len(self.keys) // 2
        for place in (slice(0, half), slice(half, None)):
            yield Part(0, self.keys[place], np.ones(len(self.keys[place]), dtype=np.bool_))


@pytest.mark.parametrize(
    ("width", "num_in_memory", "num_passes"), [(32, 100, 2), (32, 0, 2), (64, 100, 2), (64, 0, 4)]
)
def test_keys_are_made_no_more_often_than_needed(
    width: int, num_in_memory: int, num_passes: int
) -> None:
    """Once few keys can be the threshold, they are kept, and no more passes made."""
    parts = Counted(np.arange(100).astype(TYPES[width]) << TYPES[width](width - 10))
    assert find_threshold(parts, width, 3, num_in_memory=num_in_memory).num_below == 2
    assert parts.num_passes == num_passes


def test_removing_more_than_there_is_is_refused() -> None:
    """A caller that asks for more keys than take part is wrong, and no mask comes of it."""
    part = Part(0, np.zeros(3, dtype=np.uint32), np.array([True, False, True]))
    with pytest.raises(AssertionError, match="more keys to remove than take part"):
        find_threshold(lambda: [part], 32, 3)


def memory_of(parts: Parts, width: int, num_removed: int) -> int:
    """Return the peak of bytes that finding a threshold takes, and going over the survivors."""
    tracemalloc.start()
    try:
        threshold = find_threshold(parts, width, num_removed)
        for _ in survivors(parts, threshold, num_removed):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_keys() -> None:
    """Eight times the keys take no more memory: only one part is there at a time."""
    chunk = np.random.default_rng(0).integers(0, 2**64, 2**16, dtype=np.uint64)

    def parts(num_parts: int) -> Iterator[Part]:
        for start in range(num_parts):
            kept = np.ones(len(chunk), dtype=np.bool_)
            yield Part(start * len(chunk), chunk ^ np.uint64(start), kept)

    peaks = [memory_of(lambda n=n: parts(n), 64, n * len(chunk) // 2) for n in (4, 32)]
    assert peaks[1] < 1.1 * peaks[0]
