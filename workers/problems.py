"""What each kind of task adds to the loop: its batches, its loss, what is scored and how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from search_spaces.contracts import SplitScore, TrialRequest
from search_spaces.tasks import task_source
from search_spaces.token_sources import AnswersSource, WordsSource
from search_spaces.word_pieces import word_pieces
from workers.batches import Batch, Layout
from workers.labelled import Labelled
from workers.masked_words import MaskedWords
from workers.metrics import Rows
from workers.seeds import stream
from workers.spans import Spans
from workers.tokens import TokenSplit

EVALUATION = -1  # in place of a step: what is hidden for a score, the same in every trial


class Problem(Protocol):
    """A kind of task, with what a trial's task says about it.

    A ``key`` is the 64-bit seed of what is drawn anew at each step; most kinds draw nothing.
    """

    num_at_once: int  # examples of a batch in evaluation

    def num_counted(self, split: TokenSplit, indices: npt.NDArray[np.int64], key: int) -> int:
        """Return what the summed loss of a global batch is divided by (method rule 13)."""

    def batch(
        self, split: TokenSplit, indices: npt.NDArray[np.int64], layout: Layout, key: int
    ) -> Batch:
        """Put the examples at ``indices``, at least one, into a batch."""

    def summed_loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the sum over all that is counted in a batch."""

    def rows(self, logits: torch.Tensor, batch: Batch, split: TokenSplit) -> Rows:
        """Return what scoring needs of each example, shape (B, any), in the batch's order."""

    def score(self, rows: Rows, split: TokenSplit, names: Sequence[str]) -> SplitScore:
        """Return the metrics of a split from the rows of all its examples."""


def problem_of_trial(request: TrialRequest) -> Problem:
    """Return the kind of a trial's task.

    Raises:
        SpecError: The model's tokenizer cannot be read.
    """
    source = task_source(request.task.source)
    if isinstance(source, WordsSource):
        return MaskedWords(source.mask_probability, word_pieces(Path(request.model.folder)))
    if isinstance(source, AnswersSource):
        return Spans(source.num_best, source.max_answer_length)
    return Labelled(request.spec.task.problem)


def evaluation_key(data_sha256: str) -> int:
    """Return the key of what is hidden for a score: equal for all trials of a task."""
    return stream(0, data_sha256, "mlm", EVALUATION)
