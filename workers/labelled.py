"""Classes and numbers of whole examples: one label each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from search_spaces.contracts import SplitScore
from workers.batches import Batch, Layout, make_batch
from workers.metrics import Rows, evaluate_metrics
from workers.tokens import TokenSplit


def summed_loss(logits: torch.Tensor, labels: torch.Tensor, problem: str) -> torch.Tensor:
    """Return the sum of the examples' losses: cross entropy, or squared error."""
    if problem == "regression":
        return torch.nn.functional.mse_loss(logits[:, 0], labels, reduction="sum")
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")


class Labelled:
    """A classification or a regression; methods as in ``workers.problems.Problem``."""

    num_at_once = 128

    def __init__(self, problem: str) -> None:
        self._problem = problem

    def num_counted(self, split: TokenSplit, indices: npt.NDArray[np.int64], key: int) -> int:
        """Count the examples."""
        return len(indices)

    def batch(
        self, split: TokenSplit, indices: npt.NDArray[np.int64], layout: Layout, key: int
    ) -> Batch:
        """Put examples and their labels into a batch."""
        return make_batch(split, indices, self._problem, layout)

    def summed_loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Sum the examples' losses."""
        return summed_loss(logits, batch.labels, self._problem)

    def rows(self, logits: torch.Tensor, batch: Batch, split: TokenSplit) -> Rows:
        """Return the logits, shape (B, labels)."""
        found: Rows = logits.cpu().numpy()
        return found

    def score(self, rows: Rows, split: TokenSplit, names: Sequence[str]) -> SplitScore:
        """Return the metrics of the whole split."""
        labels = np.asarray(split.labels)  # stored as fp64, class indices too
        if self._problem == "regression":
            return evaluate_metrics(self._problem, rows[:, 0], labels, names)
        return evaluate_metrics(self._problem, rows, labels.astype(np.int64), names)
