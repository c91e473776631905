"""Attention over concatenated examples, registered with transformers' attention interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from workers.grouped_attention import grouped_attention

UNPADDED = "tickets_unpadded"  # its name in transformers
_VARLEN_DTYPES = (torch.bfloat16, torch.float16)


def unpadded_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    starts: torch.Tensor,
    groups: Sequence[tuple[int, int]],
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each example of a batch that is sorted by length.

    On a GPU torch's kernel for variable lengths takes all examples at once; it knows half
    precision only and no dropout, so that other cases go group by group, as on a CPU. Dropout is
    never left out (method rule 23).

    Args:
        module: The attention module; not used.
        query: Shape (1, heads, T, head size), as ``key`` and ``value``.
        key: See ``query``.
        value: See ``query``.
        attention_mask: None: nothing is padded.
        dropout: On the attention probabilities.
        scaling: Of the scores.
        starts: ``Batch.starts``.
        groups: ``Batch.groups``.

    Returns:
        Shape (1, T, heads, head size), and no weights.
    """
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # (T, heads, size)
    if query.is_cuda and dropout == 0.0 and query.dtype in _VARLEN_DTYPES:
        longest = groups[-1][1]
        attended = varlen_attn(q, k, v, starts, starts, longest, longest, scale=scaling)
        assert isinstance(attended, torch.Tensor)  # it returns more only when asked
        return attended[None], None
    if dropout and query.dtype == torch.float32 and not query.is_cuda:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return grouped_attention(q, k, v, groups, dropout, scale)[None], None
    return _by_group((q, k, v), groups, dropout, scaling)[None], None


def _by_group(
    tokens: Sequence[torch.Tensor],
    groups: Sequence[tuple[int, int]],
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Return shape (T, heads, head size); examples of one length are one call, without copies."""
    sizes = [count * length for count, length in groups]
    parts = zip(*(torch.split(states, sizes) for states in tokens), strict=True)
    pieces = []
    for (count, length), part in zip(groups, parts, strict=True):
        q, k, v = (states.unflatten(0, (count, length)).transpose(1, 2) for states in part)
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scaling
        )  # (count, heads, length, head size)
        pieces.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces)


AttentionInterface.register(UNPADDED, unpadded_attention)
