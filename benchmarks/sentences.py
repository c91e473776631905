"""Sentences without meaning whose lengths and words are distributed as a real task's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from workers.tokens import TokenSplit

# Length in tokens at each share of SST-2's 67,349 training sentences, with [CLS] and [SEP], in
# the uncased BERT vocabulary. Their mean is 13.3, that of sentences drawn here 13.6.
SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
LENGTHS = (3, 4, 4, 6, 10, 18, 27, 33, 44, 66)
# MNLI: logarithms are normal, mean 38.7 tokens, 95% below 74; cut where the recipe cuts.
LOG_MEAN, LOG_DEVIATION = 3.551, 0.458
MIN_PAIR, MAX_LENGTH = 6, 128
CLS, SEP, FIRST_WORD = 101, 102, 1000
Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Kind:
    """What sentences are like.

    Attributes:
        name: Of the task whose lengths they have.
        num_words: Different words, each as frequent as any other. They count because only the
            rows of used words are trained: SST-2 uses 11,570, and 29,000 are nearly all.
        num_labels: Classes.
        has_pairs: Whether there are two texts; the second is a third of the tokens.
        lengths: Draws the lengths of so many sentences.
    """

    name: str
    num_words: int
    num_labels: int
    has_pairs: bool
    lengths: Callable[[np.random.Generator, int], Lengths]

    def draw(self, num_sentences: int, seed: int) -> TokenSplit:
        """Return random words of the uncased BERT vocabulary in sentences of such lengths."""
        generator = np.random.default_rng(seed)
        lengths = self.lengths(generator, num_sentences)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.zeros(offsets[-1], dtype=np.int32)
        types = np.zeros_like(ids)
        ids[offsets[:-1]], ids[offsets[1:] - 1] = CLS, SEP
        for start, stop in pairwise(offsets) if self.has_pairs else ():
            first = start + 2 * (stop - start) // 3
            ids[first - 1], types[first:stop] = SEP, 1
        free = ids == 0
        words = np.arange(FIRST_WORD, FIRST_WORD + self.num_words, dtype=np.int32)
        ids[free] = generator.permutation(np.resize(words, free.sum()))
        return TokenSplit(
            ids=ids,
            types=types,
            offsets=offsets,
            labels=generator.integers(0, self.num_labels, num_sentences).astype(np.float64),
            num_truncated=0,
        )


def _sst2_lengths(generator: np.random.Generator, num_sentences: int) -> Lengths:
    drawn = np.interp(generator.random(num_sentences), SHARES, LENGTHS)
    return np.rint(drawn).astype(np.int64)


def _mnli_lengths(generator: np.random.Generator, num_sentences: int) -> Lengths:
    drawn = np.rint(generator.lognormal(LOG_MEAN, LOG_DEVIATION, num_sentences))
    return np.clip(drawn, MIN_PAIR, MAX_LENGTH).astype(np.int64)


SST2 = Kind("SST-2", 11_570, 2, has_pairs=False, lengths=_sst2_lengths)
MNLI = Kind("MNLI", 29_000, 3, has_pairs=True, lengths=_mnli_lengths)
