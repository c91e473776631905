"""Question answering: the span of the context that answers, found over all its windows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from search_spaces.contracts import SplitScore
from workers.answers import exact_match, token_f1
from workers.batches import Batch, Layout, make_batch
from workers.metrics import Rows, check_rows
from workers.tokens import TokenSplit, WindowSplit

NO_SPAN = -1e30  # score of a window in which no allowed span is among the best
_METRICS = {"squad_f1": token_f1, "exact_match": exact_match}


class Spans:
    """Starts and ends of answers; methods as in ``workers.problems.Problem``.

    Args:
        num_best: Best starts and ends of a window that are tried with each other.
        max_answer_length: Tokens of an answer.
    """

    num_at_once = 128

    def __init__(self, num_best: int, max_answer_length: int) -> None:
        self._num_best, self._max_length = num_best, max_answer_length

    def num_counted(self, split: TokenSplit, indices: npt.NDArray[np.int64], key: int) -> int:
        """Count the spans: one of each window."""
        return len(indices)

    def batch(
        self, split: TokenSplit, indices: npt.NDArray[np.int64], layout: Layout, key: int
    ) -> Batch:
        """Put windows and their answers' first and last tokens into a batch."""
        return make_batch(split, indices, "span", layout)

    def summed_loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Sum the means of the start's and the end's cross entropies over a window's tokens."""
        total = logits.new_zeros(())
        for part, labels in zip(_windows(logits, batch), _parts(batch.labels, batch), strict=True):
            for side in (0, 1):
                total = total + torch.nn.functional.cross_entropy(
                    part[..., side], labels[:, side], reduction="sum"
                )
        return total / 2

    def rows(self, logits: torch.Tensor, batch: Batch, split: TokenSplit) -> Rows:
        """Return the score and the characters, from and to, of each window's best span."""
        assert isinstance(split, WindowSplit)
        values, rows = logits.double().cpu().numpy(), []
        starts = batch.starts.cpu().numpy()
        for window, begin, end in zip(batch.indices, starts, starts[1:], strict=False):
            tokens = slice(split.offsets[window], split.offsets[window + 1])
            chars, can_begin = split.chars[tokens], split.can_begin[tokens]
            rows.append(self._best(values[begin:end], chars, can_begin))
        return np.array(rows)

    def _best(
        self,
        logits: npt.NDArray[np.float64],
        chars: npt.NDArray[np.int32],
        can_begin: npt.NDArray[np.bool_],
    ) -> tuple[float, float, float]:
        """Return (score, first character, one after the last) of a window's best span."""
        if not np.isfinite(logits).all():
            return np.nan, np.nan, np.nan
        best = [np.argsort(-logits[:, side], kind="stable")[: self._num_best] for side in (0, 1)]
        firsts, lasts = best[0][can_begin[best[0]]], best[1][chars[best[1], 0] >= 0]
        lengths = lasts[None] - firsts[:, None] + 1
        scores = logits[firsts, 0][:, None] + logits[lasts, 1][None]
        scores = np.where((lengths > 0) & (lengths <= self._max_length), scores, NO_SPAN)
        if not scores.size or scores.max() == NO_SPAN:
            return NO_SPAN, 0.0, 0.0
        first, last = np.unravel_index(scores.argmax(), scores.shape)
        where = float(chars[firsts[first], 0]), float(chars[lasts[last], 1])
        return float(scores[first, last]), *where

    def score(self, rows: Rows, split: TokenSplit, names: Sequence[str]) -> SplitScore:
        """Return the means over all questions of the best answer's scores."""
        check_rows(rows)
        assert isinstance(split, WindowSplit)
        questions = json.loads(split.questions.read_bytes())
        best: dict[int, Rows] = {}
        for question, row in zip(split.question_of.tolist(), rows, strict=True):
            if question not in best or row[0] > best[question][0]:
                best[question] = row
        texts = [
            questions["contexts"][context][int(best[index][1]) : int(best[index][2])]
            for index, context in enumerate(questions["context_of"])
        ]
        pairs = list(zip(texts, questions["answers"], strict=True))
        return SplitScore(
            metrics={n: float(np.mean([_METRICS[n](*pair) for pair in pairs])) for n in names},
            num_examples=len(texts),
            constant_predictor=len(texts) > 1 and len(set(texts)) == 1,
        )


def _windows(logits: torch.Tensor, batch: Batch) -> Iterator[torch.Tensor]:
    """Yield the logits of the windows of each length, shape (windows, length, 2)."""
    sizes = [count * length for count, length in batch.groups]
    for (count, length), part in zip(batch.groups, torch.split(logits, sizes), strict=True):
        yield part.view(count, length, 2)


def _parts(labels: torch.Tensor, batch: Batch) -> Sequence[torch.Tensor]:
    return torch.split(labels, [count for count, _ in batch.groups])
