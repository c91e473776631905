"""Batches of examples: concatenated without padding, or padded as the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from workers.tokens import TokenSplit

Layout = Literal["unpadded", "padded"]
PADDED_ID = 0  # stands where a padded batch has no token, whatever the model's own padding is


@dataclass(frozen=True)
class Batch:
    """Some examples, sorted by length and concatenated (T tokens, B examples).

    A step's loss is a sum over its batch, so the order within does not matter; sorted, equal
    lengths lie side by side, and attention reads them without copying.

    Attributes:
        ids: Token ids, shape (1, T).
        types: Segment ids, the same shape.
        positions: Position within each example from 0, the same shape.
        starts: Index of each example's first token and T, int32, shape (B + 1,).
        labels: Shape (B,), class indices (int64) or scores (float32); (B, 2), first and last
            token of each answer; or the ids of hidden tokens, one for each of ``places``.
        indices: Which examples these are, in the batch's order, shape (B,).
        groups: (number of examples, length) of each length, ascending.
        attention: None; padded batches have ids, types and positions of shape (B, longest)
            and here 1 where there is a token.
        places: Where tokens were hidden, among the T, int64, ascending; None if none ever are.
    """

    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    starts: torch.Tensor
    labels: torch.Tensor
    indices: npt.NDArray[np.int64]
    groups: tuple[tuple[int, int], ...]
    attention: torch.Tensor | None = None
    places: torch.Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """T: real tokens, padding not counted."""
        return sum(count * length for count, length in self.groups)

    def padded(self) -> Batch:
        """Lay the examples side by side; a padding token has id, segment and position 0."""
        lengths = self.starts.diff().long()
        attention = torch.arange(int(lengths[-1]))[None] < lengths[:, None]

        def laid(tokens: torch.Tensor) -> torch.Tensor:
            rows = torch.full(attention.shape, PADDED_ID, dtype=tokens.dtype)
            rows[attention] = tokens[0]
            return rows

        return replace(
            self,
            ids=laid(self.ids),
            types=laid(self.types),
            positions=laid(self.positions),
            attention=attention.long(),
        )

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; copies to a GPU do not wait for it."""
        if device.type == "cpu":
            return self
        found = {name: getattr(self, name) for name in _TENSORS}
        return replace(
            self,
            **{
                name: tensor.pin_memory().to(device, non_blocking=True)
                for name, tensor in found.items()
                if tensor is not None
            },
        )


_TENSORS = ("ids", "types", "positions", "starts", "labels", "attention", "places")


def make_batch(
    split: TokenSplit,
    indices: npt.NDArray[np.int64],
    problem: str,
    layout: Layout = "unpadded",
) -> Batch:
    """Put the examples at ``indices`` into a batch.

    Args:
        split: The tokens.
        indices: Examples; at least one.
        problem: As in ``TaskIdentity``; numbers are the labels of a regression only.
        layout: Whether to pad to the longest example.
    """
    lengths = split.offsets[indices + 1] - split.offsets[indices]
    order = np.argsort(lengths, kind="stable")
    indices, lengths = indices[order], lengths[order]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    where = np.repeat(split.offsets[indices], lengths) + positions
    sizes, counts = np.unique(lengths, return_counts=True)
    labels = torch.from_numpy(np.asarray(split.labels[indices]))
    batch = Batch(
        ids=torch.from_numpy(split.ids[where].astype(np.int64))[None],
        types=torch.from_numpy(split.types[where].astype(np.int64))[None],
        positions=torch.from_numpy(positions)[None],
        starts=torch.from_numpy(starts.astype(np.int32)),
        labels=labels.float() if problem == "regression" else labels.long(),
        indices=indices,
        groups=tuple(zip(counts.tolist(), sizes.tolist(), strict=True)),
    )
    return batch if layout == "unpadded" else batch.padded()
