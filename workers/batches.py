"""Batches of concatenated tokens: no padding anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from workers.tokens import TokenSplit


@dataclass(frozen=True)
class Batch:
    """Some examples, concatenated (T tokens, B examples).

    Attributes:
        ids: Token ids, shape (1, T).
        types: Segment ids, shape (1, T).
        positions: Position within each example from 0, shape (1, T).
        starts: Index of each example's first token, shape (B,).
        groups: One index tensor for each length, shape (examples of the length, length): where
            their tokens stand. Attention runs over these groups.
        labels: Shape (B,); class indices (int64) or scores (float32).
    """

    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    starts: torch.Tensor
    groups: tuple[torch.Tensor, ...]
    labels: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.ids.shape[1]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        moved = {name: getattr(self, name).to(device) for name in _TENSORS}
        return Batch(groups=tuple(group.to(device) for group in self.groups), **moved)


_TENSORS = ("ids", "types", "positions", "starts", "labels")


def make_batch(split: TokenSplit, indices: npt.NDArray[np.int64], problem: str) -> Batch:
    """Concatenate the examples at ``indices``.

    Args:
        split: The tokens.
        indices: Examples, in the order of the batch; at least one.
        problem: "classification" or "regression".
    """
    begins, lengths = split.offsets[indices], split.offsets[indices + 1] - split.offsets[indices]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    where = np.repeat(begins, lengths) + positions
    groups = tuple(
        torch.from_numpy(starts[lengths == length][:, None] + np.arange(length)[None])
        for length in np.unique(lengths)
    )
    labels = torch.from_numpy(np.asarray(split.labels[indices]))
    return Batch(
        ids=torch.from_numpy(split.ids[where].astype(np.int64))[None],
        types=torch.from_numpy(split.types[where].astype(np.int64))[None],
        positions=torch.from_numpy(positions)[None],
        starts=torch.from_numpy(starts),
        groups=groups,
        labels=labels.float() if problem == "regression" else labels.long(),
    )
