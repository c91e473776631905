"""The fine-tuning loop: exact order of the data, a global-sum loss, counter-based dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from search_spaces.contracts import FailureClass
from search_spaces.trial import TrialSpec
from workers.batches import Batch, make_batch
from workers.failures import TrialFailure
from workers.seeds import epoch_order, stream
from workers.tokens import TokenSplit

NUM_LOSSES_KEPT = 50
Forward = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True)
class Shard:
    """What one rank computes of every batch."""

    rank: int = 0
    num_ranks: int = 1
    micro_batch_size: int = 0

    def parts(
        self, indices: npt.NDArray[np.int64], batch_size: int
    ) -> Iterator[npt.NDArray[np.int64]]:
        """Yield this rank's micro-batches of a global batch; the last batch leaves some empty."""
        share = batch_size // self.num_ranks
        for begin in range(self.rank * share, (self.rank + 1) * share, self.micro_batch_size):
            yield indices[begin : begin + self.micro_batch_size]


@dataclass(frozen=True)
class Trained:
    """What the loop reports."""

    losses: tuple[tuple[int, float], ...]
    num_tokens: int


def global_batches(
    spec: TrialSpec, num_examples: int, first_epoch: int = 0
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the examples of each optimizer step; an epoch's last, smaller batch is kept."""
    size, taken, epoch = spec.recipe.batch_size, 0, first_epoch
    while True:
        order = epoch_order(spec.seed, spec.task.data_sha256, epoch, num_examples)
        for begin in range(0, num_examples, size):
            if taken == spec.recipe.train_steps:
                return
            yield order[begin : begin + size]
            taken += 1
        epoch += 1


def summed_loss(logits: torch.Tensor, labels: torch.Tensor, problem: str) -> torch.Tensor:
    """Return the sum of the examples' losses: cross entropy, or squared error."""
    if problem == "regression":
        return torch.nn.functional.mse_loss(logits[:, 0], labels, reduction="sum")
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")


def finetune(
    engine: Any,
    spec: TrialSpec,
    train: TokenSplit,
    shard: Shard,
    on_step: Callable[[int, float], None],
    position: tuple[int, int] = (0, 0),
) -> Trained:
    """Take all optimizer steps of a trial.

    The loss of a step is the sum over the global batch divided by its global count (rule 13).
    DeepSpeed divides by the accumulation steps and averages over ranks, which is undone here.

    Args:
        engine: A DeepSpeed engine whose module maps a batch to logits.
        spec: The trial.
        train: The training tokens.
        shard: This rank's part.
        on_step: Told the step and its loss.
        position: (epoch, step) at which the random streams go on, from a carried state.

    Raises:
        TrialFailure: The loss or a gradient is not finite (class ``diverged``).
    """
    recipe, problem = spec.recipe, spec.task.problem
    losses, num_tokens = [], 0
    keep_every = max(1, recipe.train_steps // NUM_LOSSES_KEPT)
    scale = shard.num_ranks * engine.gradient_accumulation_steps()
    engine.train()
    for step, indices in enumerate(global_batches(spec, len(train), position[0]), start=1):
        drop_seed = stream(spec.seed, spec.task.data_sha256, "dropout", position[1] + step)
        torch.manual_seed((drop_seed + shard.rank) % 2**63)
        total = torch.zeros((), device=engine.device)
        for part in shard.parts(indices, recipe.batch_size):
            weight = 1.0 if len(part) else 0.0  # an empty share still takes part in the step
            batch = make_batch(train, part if len(part) else indices[:1], problem)
            batch = batch.to(engine.device)
            loss = summed_loss(engine(batch), batch.labels, problem) * (weight / len(indices))
            engine.backward(loss * scale)
            engine.step()
            total += loss.detach()
            num_tokens += batch.num_tokens if weight else 0
        is_kept = step % keep_every == 0 or step == recipe.train_steps
        if is_kept or engine.skipped_steps:
            value = _over_ranks(total, shard)
            if not math.isfinite(value):
                raise _diverged(f"The training loss is {value} at step {step}")
            if engine.skipped_steps:  # DeepSpeed leaves such an update out without a word
                raise _diverged(f"The gradient is not finite at step {step}, loss {value:g}")
            losses.append((step, value))
            on_step(step, value)
    if not all(bool(torch.isfinite(weights).all()) for weights in engine.module.parameters()):
        raise _diverged(f"The weights are not finite after step {recipe.train_steps}")
    tokens = torch.tensor(num_tokens, device=engine.device)
    return Trained(tuple(losses), int(_over_ranks(tokens, shard)))


def _over_ranks(total: torch.Tensor, shard: Shard) -> float:
    if shard.num_ranks > 1:
        torch.distributed.all_reduce(total)
    return float(total)


def _diverged(what: str) -> TrialFailure:
    remedy = "Lower recipe.learning_rate, add warm-up, or set recipe.max_grad_norm."
    return TrialFailure(FailureClass.DIVERGED, f"{what}. {remedy}")
