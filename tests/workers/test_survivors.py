"""The optimizer over survivors takes AdamW's steps on masked, clipped gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from search_spaces.recipes import Recipe, learning_rate_factor
from tests.workers.requests import recipe
from workers.survivors import NO_DECAY, SurvivorAdamW
from workers.tracked import Tensors

NUM_WORDS, WIDTH, NUM_STEPS = 12, 5, 8
USED = torch.tensor([1, 2, 5, 7, 11])
SMALL: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
}


class Toy(nn.Module):
    """An embedding, a pruned matrix, a LayerNorm and a head."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words = nn.Embedding(NUM_WORDS, WIDTH)
        self.pruned = nn.Linear(WIDTH, 9)
        self.LayerNorm = nn.LayerNorm(9)
        self.head = nn.Linear(9, 3)
        self.to(dtype)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.LayerNorm(self.pruned(self.words(ids))))
        return self.head(hidden).float()  # type: ignore[no-any-return]


def removed_of(seed: int, sparsity: float) -> torch.Tensor:
    """Return which weights of the pruned matrix are removed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((9, WIDTH), generator=generator) < sparsity


def starting(toy: Toy) -> dict[nn.Parameter, torch.Tensor]:
    return {parameter: parameter.detach().float().clone() for parameter in toy.parameters()}


def begin(
    toy: Toy, wanted: Recipe, removed: torch.Tensor, rows: Tensors, num_ranks: int = 1
) -> SurvivorAdamW:
    optimizer = SurvivorAdamW(toy.named_parameters(), num_ranks)
    survivors = {toy.pruned.weight: (~removed).flatten().nonzero()[:, 0]}
    optimizer.begin(wanted, starting(toy), survivors, rows)
    return optimizer


def batches(num_micro: int = 1) -> Iterable[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Yield the micro-batches of each step: ids that are used, and labels."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(NUM_STEPS):
        ids = USED[torch.randint(0, len(USED), (8,), generator=generator)]
        labels = torch.randint(0, 3, (8,), generator=generator)
        yield list(zip(ids.chunk(num_micro), labels.chunk(num_micro), strict=True))


def loss_of(toy: Toy, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(toy(ids), labels, reduction="sum") / 8


def train(toy: Toy, optimizer: SurvivorAdamW, num_micro: int = 1) -> None:
    for parts in batches(num_micro):
        for ids, labels in parts:
            loss_of(toy, ids, labels).backward()
            optimizer.collect()
        optimizer.step()


def train_plainly(toy: Toy, wanted: Recipe, removed: torch.Tensor) -> None:
    """Train with torch's own AdamW, a gradient hook and clip_grad_norm_."""
    with torch.no_grad():
        toy.pruned.weight.masked_fill_(removed, 0.0)
    toy.pruned.weight.register_hook(lambda gradient: gradient.masked_fill(removed, 0.0))
    named = list(toy.named_parameters())
    groups = [
        {"params": [p for n, p in named if not n.endswith(NO_DECAY)]},
        {"params": [p for n, p in named if n.endswith(NO_DECAY)], "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(
        groups, wanted.learning_rate, weight_decay=wanted.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        plain, lambda step: learning_rate_factor(step, wanted)
    )
    for ((ids, labels),) in batches():
        loss_of(toy, ids, labels).backward()
        if wanted.max_grad_norm:
            nn.utils.clip_grad_norm_(toy.parameters(), wanted.max_grad_norm)
        plain.step()
        schedule.step()
        plain.zero_grad()


def largest_difference(one: Toy, other: Toy) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    sparsity=st.sampled_from([0.0, 0.3, 0.7, 0.95]),
    decay=st.sampled_from([0.0, 0.1]),
    clip=st.sampled_from([0.0, 0.05, 1.0]),
    only_used=st.booleans(),
)
def test_steps_equal_adamw_on_masked_clipped_gradients(
    seed: int, sparsity: float, decay: float, clip: float, only_used: bool
) -> None:
    """At any sparsity, decay and clipping, but for rounding (fp32).

    The norm is summed in another order, and the kernel rounds the tail of a vector differently.
    """
    wanted = recipe(weight_decay=decay, max_grad_norm=clip, learning_rate=1e-2)
    removed = removed_of(seed, sparsity)
    ours, plain = Toy(seed), Toy(seed)
    rows = {ours.words.weight: USED} if only_used else {}
    ours.words.sparse = only_used and not decay
    train(ours, begin(ours, wanted, removed, rows))
    train_plainly(plain, wanted, removed)
    assert largest_difference(ours, Toy(seed)) > 1e-3  # it trained
    assert largest_difference(ours, plain) <= 1e-6
    assert not ours.pruned.weight.detach()[removed].view(torch.int32).any()


def test_micro_batches_are_summed() -> None:
    """Four micro-batches take the step of the whole batch, but for rounding."""
    whole, parts = Toy(0), Toy(0)
    removed = removed_of(0, 0.5)
    train(whole, begin(whole, recipe(), removed, {}))
    train(parts, begin(parts, recipe(), removed, {}), num_micro=4)
    assert 0 < largest_difference(whole, parts) <= 1e-6


def test_a_removed_weight_ignores_its_gradient() -> None:
    """NaN and infinity in a removed place change nothing; a product with 0 would spread NaN."""
    ours, clean, removed = Toy(0), Toy(0), removed_of(0, 0.5)
    poison = torch.where(removed, torch.tensor([math.nan, math.inf, 1.0]).repeat(3)[:, None], 0.0)
    ours.pruned.weight.register_hook(lambda gradient: gradient + poison)
    optimizer = begin(ours, recipe(), removed, {})
    train(ours, optimizer)
    train(clean, begin(clean, recipe(), removed, {}))
    assert largest_difference(ours, clean) == 0.0
    assert not int(optimizer.num_skipped)


def test_an_update_that_is_not_finite_is_left_out_and_counted() -> None:
    """The weights stay as they are, and the step counts no update for Adam's bias correction."""
    ours, removed = Toy(0), removed_of(0, 0.5)
    optimizer = begin(ours, recipe(), removed, {})
    before = starting(ours)
    loss_of(ours, USED, torch.zeros(len(USED), dtype=torch.int64)).backward()
    assert ours.head.bias.grad is not None
    ours.head.bias.grad[0] = math.inf
    optimizer.collect()
    optimizer.step()
    assert all(torch.equal(parameter, before[parameter]) for parameter in ours.parameters())
    assert int(optimizer.num_skipped) == 1


def test_bf16_weights_are_rounded_masters() -> None:
    """Masters start exact, are never rounded, and the model holds their rounded values."""
    exact, ours = Toy(0), Toy(0, torch.bfloat16)
    values = {
        parameter: theirs.detach().clone()
        for parameter, theirs in zip(ours.parameters(), exact.parameters(), strict=True)
    }
    removed = removed_of(0, 0.5)
    optimizer = SurvivorAdamW(ours.named_parameters())
    survivors = {ours.pruned.weight: (~removed).flatten().nonzero()[:, 0]}
    optimizer.begin(recipe(weight_decay=0.0), values, survivors, {ours.words.weight: USED})

    def check() -> None:
        for parameter in ours.parameters():
            assert torch.equal(parameter, optimizer.master(parameter).bfloat16())

    check()
    for parameter, start in values.items():
        expected = start.masked_fill(removed, 0.0) if parameter is ours.pruned.weight else start
        assert torch.equal(optimizer.master(parameter), expected)
    train(ours, optimizer)
    check()
    trained = optimizer.master(ours.pruned.weight)
    assert not trained[removed].view(torch.int32).any()
    assert not torch.equal(trained, trained.bfloat16().float())
    unused = [word for word in range(NUM_WORDS) if word not in USED.tolist()]
    assert torch.equal(
        optimizer.master(ours.words.weight)[unused], values[ours.words.weight][unused]
    )


def test_a_row_that_was_said_to_be_unused_is_refused() -> None:
    """A gradient there would be lost without a word."""
    ours = Toy(0)
    ours.words.sparse = True
    optimizer = begin(ours, recipe(weight_decay=0.0), removed_of(0, 0.5), {ours.words.weight: USED})
    loss_of(ours, torch.tensor([0]), torch.tensor([1])).backward()
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        optimizer.collect()


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_state_covers_survivors_and_used_rows_only(sparsity: float) -> None:
    """Moments are as many as the weights that can move."""
    ours, removed = Toy(0), removed_of(1, sparsity)
    optimizer = begin(ours, recipe(weight_decay=0.0), removed, {ours.words.weight: USED})
    num_all = sum(parameter.numel() for parameter in ours.parameters())
    num_still = int(removed.sum()) + (NUM_WORDS - len(USED)) * WIDTH
    assert optimizer.num_moving == num_all - num_still


def test_between_trials_nothing_is_left() -> None:
    """A second trial takes the steps of the first trial of another optimizer."""
    warm, fresh = Toy(0), Toy(0)
    first, second = removed_of(1, 0.9), removed_of(2, 0.3)
    values: dict[str, Any] = {name: p.detach().clone() for name, p in warm.named_parameters()}
    optimizer = begin(warm, recipe(learning_rate=1e-1), first, {warm.words.weight: USED})
    train(warm, optimizer)
    survivors = {warm.pruned.weight: (~second).flatten().nonzero()[:, 0]}
    start = {parameter: values[name] for name, parameter in warm.named_parameters()}
    optimizer.begin(recipe(), start, survivors, {})
    train(warm, optimizer)
    train(fresh, begin(fresh, recipe(), second, {}))
    assert largest_difference(warm, fresh) == 0.0
    optimizer.end()
    assert optimizer.num_moving == 0


@pytest.mark.parametrize(
    "model",
    [
        BertForMaskedLM(BertConfig(**SMALL)),
        RobertaForMaskedLM(RobertaConfig(**SMALL)),
    ],
    ids=["bert", "roberta"],
)
def test_weight_decay_is_on_matrices_and_embeddings_only(model: PreTrainedModel) -> None:
    """Without a gradient of their own they shrink alone: all else stays, the word head's too."""
    named = dict(model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    optimizer = SurvivorAdamW(named.items())
    optimizer.begin(
        recipe(weight_decay=0.1, warmup_steps=0, learning_rate=0.1),
        {parameter: before[name] for name, parameter in named.items()},
        {},
        {},
    )
    for parameter in named.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.collect()
    optimizer.step()
    for name, parameter in named.items():
        expected = before[name] * (1.0 if parameter.dim() == 1 else 1 - 0.1 * 0.1)
        torch.testing.assert_close(parameter.detach(), expected, msg=name)
