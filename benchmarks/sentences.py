"""Sentences without meaning whose lengths are distributed as a real task's."""

from __future__ import annotations

import numpy as np

from workers.tokens import TokenSplit

# Length in tokens at each share of SST-2's 67,349 training sentences, with [CLS] and [SEP], in
# the uncased BERT vocabulary. Their mean is 13.3, that of sentences drawn here 13.6.
SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
LENGTHS = (3, 4, 4, 6, 10, 18, 27, 33, 44, 66)
CLS, SEP, FIRST_WORD, NUM_WORDS = 101, 102, 1000, 29_000


def sst2_like(num_sentences: int, seed: int) -> TokenSplit:
    """Return random words of the uncased BERT vocabulary in sentences of SST-2's lengths."""
    generator = np.random.default_rng(seed)
    drawn = np.interp(generator.random(num_sentences), SHARES, LENGTHS)
    lengths = np.rint(drawn).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = generator.integers(FIRST_WORD, FIRST_WORD + NUM_WORDS, offsets[-1], dtype=np.int32)
    ids[offsets[:-1]], ids[offsets[1:] - 1] = CLS, SEP
    return TokenSplit(
        ids=ids,
        types=np.zeros_like(ids),
        offsets=offsets,
        labels=generator.integers(0, 2, num_sentences).astype(np.float64),
        num_truncated=0,
    )
