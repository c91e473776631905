"""Streams are fixed numbers: the same on every machine, different for every purpose."""

import hashlib
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.seeds import (
    STREAMS,
    UnknownStreamError,
    epoch_order,
    generator,
    permutation,
    random_words,
    stream,
)

TASK = "ab" * 32
GOLDEN = {
    "head": 9017645594597500749,
    "order": 7257025276052986742,
    "dropout": 12098688060227768019,
    "mlm": 248806291944106822,
    "random_mask": 3619435278005802688,
    "reinit": 3726223595988150724,
    "layer_perm": 16170910962827287966,
}
PLACES = st.tuples(
    st.integers(0, 2**63),
    st.sampled_from([TASK, "cd" * 32]),
    st.sampled_from(STREAMS),
    st.lists(st.integers(0, 2**31), max_size=3),
)


def test_a_stream_is_the_start_of_a_hash() -> None:
    """A stream's seed is the first 64 bits of one sha256, little-endian."""
    digest = hashlib.sha256(f"7:{TASK}:order:3".encode()).digest()
    assert stream(7, TASK, "order", 3) == int.from_bytes(digest[:8], "little")


def test_golden_values() -> None:
    """Old results stay reproducible: these numbers never change."""
    assert {name: stream(1, TASK, name) for name in STREAMS} == GOLDEN
    assert stream(1, TASK, "dropout", 2, 5) == 16710416032076267395
    assert epoch_order(1, TASK, 0, 10).tolist() == [1, 0, 9, 2, 8, 3, 4, 5, 6, 7]
    assert generator(1, TASK, "reinit").integers(1000, size=4).tolist() == [230, 542, 978, 687]


def test_streams_are_distinct() -> None:
    """Any other seed, task, name or counter is another stream."""
    choices = product((0, 1, 10), (TASK, "cd" * 32), STREAMS, ((), (0,), (1,), (1, 0), (10,)))
    values = [stream(seed, task, name, *counters) for seed, task, name, counters in choices]
    assert len(set(values)) == len(values) == 3 * 2 * 7 * 5


def test_no_stream_of_a_whole_sweep_meets_another() -> None:
    """Ten seeds, two tasks, every stream, 300 steps or epochs, eight ranks: no torch seed twice.

    torch takes 63 of the bits, and the ranks of a step draw dropout from seeds that follow each
    other.
    """
    counters = [(), *((step,) for step in range(300)), *((epoch, 7) for epoch in range(50))]
    grid = product(range(10), (TASK, "cd" * 32), STREAMS, counters)
    values = np.array([stream(*place[:3], *place[3]) for place in grid], dtype=np.uint64)
    ranks = np.arange(8, dtype=np.uint64)
    seeds = (values[:, None] + ranks) % np.uint64(2**63)
    assert len(np.unique(seeds)) == seeds.size == 10 * 2 * 7 * 351 * 8


@settings(deadline=None)  # the machine may be busy
@given(PLACES, PLACES)
def test_two_places_never_share_a_stream(
    first: tuple[int, str, str, list[int]], second: tuple[int, str, str, list[int]]
) -> None:
    """Seeds are equal exactly where seed, task, name and all counters are."""
    one, other = (stream(*place[:3], *place[3]) for place in (first, second))
    assert (one == other) == (first == second)


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 2**64 - 1), st.integers(0, 300))
def test_an_order_is_a_permutation(key: int, num_items: int) -> None:
    """Every example comes exactly once."""
    assert sorted(permutation(key, num_items).tolist()) == list(range(num_items))


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 2**64 - 1), st.integers(0, 40), st.integers(0, 40))
def test_words_can_be_had_from_any_place_on(key: int, start: int, num_words: int) -> None:
    """Words from a place on are those that reading all from the start gives there."""
    words = random_words(key, start + num_words)
    assert random_words(key, num_words, start).tolist() == words[start:].tolist()


def test_epochs_and_seeds_have_their_own_orders() -> None:
    """The order changes with epoch and seed, and comes again for the same ones."""
    orders = [epoch_order(seed, TASK, epoch, 100).tolist() for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    assert orders[1] == epoch_order(1, TASK, 1, 100).tolist()


def test_permutations_are_uniform() -> None:
    """Over 6,000 seeds each of the six orders of three items comes about 1,000 times."""
    orders = [tuple(permutation(key, 3).tolist()) for key in range(6000)]
    _, counts = np.unique(np.array(orders), axis=0, return_counts=True)
    assert len(counts) == 6 and abs(counts - 1000).max() < 150


def test_unknown_streams_are_refused() -> None:
    """A misspelt name is an error, not a new stream."""
    with pytest.raises(UnknownStreamError, match=r"stream 'heads'\. Use one of: head, ord"):
        stream(1, TASK, "heads")
