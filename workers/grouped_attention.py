"""Attention with dropout, one length at a time, with its gradients written out.

For a few dozen short sentences the bookkeeping of autograd costs more than the arithmetic: every
length has some thirty small operations. One node for all of them leaves the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import _softmax_backward_data
from torch.autograd.function import FunctionCtx, once_differentiable

Groups: TypeAlias = Sequence[tuple[int, int]]  # Batch.groups


def grouped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    groups: Groups,
    dropout: float,
    scaling: float,
) -> torch.Tensor:
    """Attend within each example of a batch that is sorted by length.

    Args:
        query: Shape (T, heads, head size), as ``key``, ``value`` and what is returned.
        key: See ``query``.
        value: See ``query``.
        groups: (number of examples, length) of each length, in the batch's order.
        dropout: Probability, below 1, on the attention probabilities; drawn group by group.
        scaling: Of the scores.
    """
    attended: torch.Tensor = _GroupedAttention.apply(query, key, value, groups, dropout, scaling)  # type: ignore[no-untyped-call]
    return attended


class _GroupedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        groups: Groups,
        dropout: float,
        scaling: float,
    ) -> torch.Tensor:
        attended = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        saved: list[torch.Tensor] = []
        for place, group in _places(groups):
            q, k, v = (_heads_first(states[place], group) for states in (query, key, value))
            shares = torch.softmax(torch.bmm(q, k.transpose(1, 2)).mul_(scaling), dim=-1)
            keep = torch.empty_like(shares).bernoulli_(1 - dropout).div_(1 - dropout)
            _put(attended[place], torch.bmm(shares * keep, v), group)
            saved += (q, k, v, shares, keep)
        ctx.save_for_backward(*saved)
        ctx.groups, ctx.scaling = groups, scaling  # type: ignore[attr-defined]
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_attended: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        d_query, d_key, d_value = (torch.empty_like(d_attended) for _ in range(3))
        saved = iter(ctx.saved_tensors)
        for place, group in _places(ctx.groups):
            q, k, v, shares, keep = (next(saved) for _ in range(5))
            d_out = _heads_first(d_attended[place], group)
            _put(d_value[place], torch.bmm((shares * keep).transpose(1, 2), d_out), group)
            d_shares = torch.bmm(d_out, v.transpose(1, 2)).mul_(keep)
            d_scores = _softmax_backward_data(d_shares, shares, -1, shares.dtype).mul_(ctx.scaling)
            _put(d_query[place], torch.bmm(d_scores, k), group)
            _put(d_key[place], torch.bmm(d_scores.transpose(1, 2), q), group)
        return d_query, d_key, d_value, None, None, None


def _places(groups: Groups) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Yield which tokens each group has, and the group."""
    start = 0
    for count, length in groups:
        stop = start + count * length
        yield slice(start, stop), (count, length)
        start = stop


def _heads_first(states: torch.Tensor, group: tuple[int, int]) -> torch.Tensor:
    """Return a group's states as a new tensor of shape (count x heads, length, head size)."""
    _, num_heads, size = states.shape
    count, length = group
    heads = states.view(count, length, num_heads, size).transpose(1, 2)
    return heads.reshape(count * num_heads, length, size)


def _put(place: torch.Tensor, states: torch.Tensor, group: tuple[int, int]) -> None:
    """Write what ``_heads_first`` would return back to its tokens."""
    _, num_heads, size = place.shape
    count, length = group
    heads = states.view(count, num_heads, length, size)
    place.view(count, length, num_heads, size).copy_(heads.transpose(1, 2))
