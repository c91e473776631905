"""Attention with dropout, its gradients written out, against autograd's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from workers import attention
from workers.grouped_attention import grouped_attention

GROUPS = ((2, 1), (3, 4), (1, 7))
NUM_TOKENS, NUM_HEADS, HEAD_SIZE = 21, 2, 3
DROPOUT, SCALING = 0.3, 0.7
Attend = Callable[..., torch.Tensor]


def draw(num: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (NUM_TOKENS, NUM_HEADS, HEAD_SIZE)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(num)]


def by_autograd(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float, scaling: float
) -> torch.Tensor:
    """The formula of attention, example by example, with the same draws in the same order."""
    pieces, start = [], 0
    for count, length in GROUPS:
        noise = torch.empty(count * NUM_HEADS, length, length, dtype=q.dtype)
        keep = noise.bernoulli_(1 - dropout).unflatten(0, (count, NUM_HEADS)) / (1 - dropout)
        for example in range(count):
            own = slice(start, start + length)
            scores = torch.einsum("qhd,khd->hqk", q[own], k[own]) * scaling
            shares = torch.softmax(scores, -1) * keep[example]
            pieces.append(torch.einsum("hqk,khd->qhd", shares, v[own]))
            start += length
    return torch.cat(pieces)


@pytest.mark.parametrize("dropout", [0.0, DROPOUT])
def test_values_and_gradients_are_those_of_the_formula(dropout: float) -> None:
    """To the rounding of fp64, with the same draws."""

    def both(attend: Attend) -> list[torch.Tensor]:
        *states, weights = draw(4)
        states = [state.requires_grad_() for state in states]
        torch.manual_seed(11)
        attended = attend(*states)
        gradients = torch.autograd.grad((attended * weights).sum(), states)
        return [attended, *gradients]

    ours = both(lambda q, k, v: grouped_attention(q, k, v, GROUPS, dropout, SCALING))
    theirs = both(lambda q, k, v: by_autograd(q, k, v, dropout, SCALING))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_share_of_the_probabilities_is_dropped_and_the_rest_scaled() -> None:
    """Attention to ones sums the kept probabilities: their mean stays 1."""
    num = 400
    states = torch.zeros(num * 5, 1, 2)
    attended = grouped_attention(states, states, torch.ones_like(states), ((num, 5),), 0.2, 1.0)
    counts = attended[:, 0, 0] * 5 * 0.8  # kept of each query's five
    torch.testing.assert_close(counts, counts.round())
    assert 3.9 < float(counts.mean()) < 4.1 and float(counts.var()) > 0.5


def test_the_trainer_takes_it_for_fp32_with_dropout_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And torch's kernel without dropout, or in another precision."""
    calls: list[float] = []

    def spy(q: torch.Tensor, *rest: object) -> torch.Tensor:
        calls.append(rest[3])  # type: ignore[arg-type]
        return torch.zeros_like(q)

    monkeypatch.setattr(attention, "grouped_attention", spy)
    for dtype in (torch.float32, torch.bfloat16):
        states = [state.to(dtype).transpose(0, 1)[None] for state in draw(3)]
        for dropout in (0.0, DROPOUT):
            attention.unpadded_attention(
                torch.nn.Module(),
                *states,
                None,
                dropout,
                starts=torch.tensor([0, 1, 2, 6, 10, 14, 21], dtype=torch.int32),
                groups=GROUPS,
            )
    assert calls == [DROPOUT]
