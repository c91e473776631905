"""Seed streams: independent random numbers for each purpose, by counter (method rule 3).

A stream depends on seed, task, name and counters only, never on method, sparsity, round or rank.
Permutations are sorts of Philox's raw words, whose values NumPy fixes for all its versions.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

STREAMS = ("head", "order", "dropout", "mlm", "random_mask", "reinit", "layer_perm")
WORDS_PER_COUNT = 4  # words that Philox makes at each step of its counter


class UnknownStreamError(ValueError):
    """A random stream was asked for by a name that does not exist."""


def stream(seed: int, task_sha256: str, name: str, *counters: int) -> int:
    """Return the 64-bit seed of a stream.

    Args:
        seed: The trial's seed, or a mask's.
        task_sha256: Names the task by content.
        name: One of ``STREAMS``.
        counters: Place within the stream, for example the epoch.

    Raises:
        UnknownStreamError: There is no stream of that name.
    """
    if name not in STREAMS:
        known = ", ".join(STREAMS)
        raise UnknownStreamError(f"There is no random stream {name!r}. Use one of: {known}.")
    text = ":".join([str(seed), task_sha256, name, *map(str, counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def generator(seed: int, task_sha256: str, name: str, *counters: int) -> Generator:
    """Return NumPy's generator over a stream; arguments and errors as for ``stream``."""
    return Generator(Philox(key=stream(seed, task_sha256, name, *counters)))


def epoch_order(seed: int, task_sha256: str, epoch: int, num_examples: int) -> NDArray[np.int64]:
    """Return the order of the training examples in one epoch: a permutation, (num_examples,)."""
    return permutation(stream(seed, task_sha256, "order", epoch), num_examples)


def permutation(key: int, num_items: int) -> NDArray[np.int64]:
    """Return the permutation of ``range(num_items)`` that a stream's 64-bit seed names."""
    return np.argsort(random_words(key, num_items), kind="stable").astype(np.int64)


def random_words(key: int, num_words: int, start: int = 0) -> NDArray[np.uint64]:
    """Return uint64 words of Philox under a stream's 64-bit seed, from ``start`` on, (num_words,).

    ``random_words(key, b - a, a)`` equals ``random_words(key, b)[a:b]``, at the cost of its own
    words only.
    """
    philox = Philox(key=key)
    philox.advance(start // WORDS_PER_COUNT)
    philox.random_raw(start % WORDS_PER_COUNT)
    words: NDArray[np.uint64] = philox.random_raw(num_words)
    return words
