"""Masked language modelling: which words are hidden, and how well they are guessed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from search_spaces.contracts import SplitScore
from search_spaces.word_pieces import WordPieces
from workers.batches import Batch, Layout, make_batch
from workers.metrics import Rows, check_rows
from workers.seeds import random_words
from workers.tokens import TokenSplit

Ids = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
SHARE_HIDDEN = 0.8  # of the tokens to be guessed; half of the others become another word
SHARE_CHANGED = 0.9
_HALF = 32  # bits of a random word for the choice, and as many for the other token
MAX_LOG_PERPLEXITY = 700.0  # beyond it a float would overflow
NO_WORD = -1  # where a block's guesses are not all one word


class MaskedWords:
    """Hides tokens anew for each key; methods as in ``workers.problems.Problem``.

    Which tokens of a block are hidden depends on the key and the block alone, so that ranks and
    micro-batches change nothing. Independent for each token, as mask_tokens of the reference
    (transformers 2.5.1, run_language_modeling.py): 80% become the mask, 10% another token, 10%
    stay.

    Args:
        probability: Share of the tokens to be guessed.
        pieces: The tokenizer.
    """

    num_at_once = 16  # a block's logits are its guessed tokens times the vocabulary

    def __init__(self, probability: float, pieces: WordPieces) -> None:
        assert pieces.mask_id is not None, "refused when the sweep is planned"
        self._probability, self._mask_id = probability, pieces.mask_id
        self._num_words = pieces.num_words
        self._num_before, self._num_after = (len(part) for part in pieces.single.parts)

    def num_counted(self, split: TokenSplit, indices: Ids, key: int) -> int:
        """Count the tokens to be guessed; at least 1, to divide by."""
        return max(1, int(np.count_nonzero(self._drawn(split, indices, key)[0])))

    def batch(self, split: TokenSplit, indices: Ids, layout: Layout, key: int) -> Batch:
        """Put blocks with hidden tokens into a batch; its labels are what was hidden."""
        batch = make_batch(split, indices, "masked-lm", "unpadded")
        chosen, changed = self._drawn(split, batch.indices, key)
        places = torch.from_numpy(np.flatnonzero(chosen))
        ids = batch.ids[0].numpy()
        hidden = replace(
            batch,
            ids=torch.from_numpy(np.where(changed >= 0, changed, ids))[None],
            labels=batch.ids[0][places],
            places=places,
        )
        return hidden if layout == "unpadded" else hidden.padded()

    def _drawn(self, split: TokenSplit, indices: Ids, key: int) -> tuple[Bools, Ids]:
        """Return which tokens are to be guessed, and what stands there (-1 = as it was).

        Both of shape (tokens of these blocks,), block after block.
        """
        ends = [(int(split.offsets[i]), int(split.offsets[i + 1])) for i in indices]
        words = np.concatenate([random_words(key, end - begin, begin) for begin, end in ends])
        share = (words >> np.uint64(_HALF)).astype(np.float64) / 2**_HALF / self._probability
        lengths = np.array([end - begin for begin, end in ends])
        place = np.arange(len(words)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        of_text = (place >= self._num_before) & (
            place < np.repeat(lengths - self._num_after, lengths)
        )
        chosen = (share < 1) & of_text
        low = words & np.uint64(2**_HALF - 1)
        other = (low * np.uint64(self._num_words) >> np.uint64(_HALF)).astype(np.int64)
        changed = np.where(share < SHARE_HIDDEN, self._mask_id, other)
        return chosen, np.where(chosen & (share < SHARE_CHANGED), changed, -1)

    def summed_loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Sum the cross entropies of the hidden tokens; 0 where there are none."""
        return torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum")

    def rows(self, logits: torch.Tensor, batch: Batch, split: TokenSplit) -> Rows:
        """Return hidden tokens, right guesses, summed loss, and the only guess of each block."""
        losses = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        guesses = logits.argmax(dim=1).cpu().numpy()
        assert batch.places is not None
        places, starts = batch.places.cpu().numpy(), batch.starts.cpu().numpy()
        block = np.searchsorted(starts, places, side="right") - 1
        rows = np.zeros((len(batch.indices), 4))
        np.add.at(rows[:, 0], block, 1)
        np.add.at(rows[:, 1], block, guesses == batch.labels.cpu().numpy())
        np.add.at(rows[:, 2], block, losses.double().cpu().numpy())
        for index in range(len(rows)):
            words = np.unique(guesses[block == index])
            rows[index, 3] = words[0] if len(words) == 1 else NO_WORD
        return rows

    def score(self, rows: Rows, split: TokenSplit, names: Sequence[str]) -> SplitScore:
        """Return the share of right guesses over the whole split, and the perplexity."""
        check_rows(rows)
        num, num_right, loss = rows[:, :3].sum(axis=0)
        mean = min(loss / max(1.0, num), MAX_LOG_PERPLEXITY)
        found = {
            "masked_accuracy": float(num_right / max(1.0, num)),
            "perplexity": math.exp(mean),
        }
        words = np.unique(rows[rows[:, 0] > 0, 3])
        return SplitScore(
            metrics={name: found[name] for name in names},
            num_examples=int(num),  # of what the accuracy is a mean: it tells how fine it is
            constant_predictor=len(words) == 1 and words[0] != NO_WORD,
        )
