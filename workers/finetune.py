"""The fine-tuning loop: exact order of the data, a global-sum loss, counter-based dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from search_spaces.contracts import FailureClass
from search_spaces.trial import TrialSpec
from workers.batches import Layout
from workers.engine import Engine
from workers.failures import TrialFailure
from workers.labelled import Labelled
from workers.problems import Problem
from workers.seeds import epoch_order, permutation, stream
from workers.tokens import TokenSplit

NUM_LOSSES_KEPT = 50
BUCKET_BATCHES = 50  # as transformers' group_by_length sorts runs of 50 batches


@dataclass(frozen=True)
class Shard:
    """What one rank computes of every batch."""

    rank: int = 0
    num_ranks: int = 1
    micro_batch_size: int = 0
    layout: Layout = "unpadded"

    def parts(
        self, indices: npt.NDArray[np.int64], batch_size: int
    ) -> Iterator[npt.NDArray[np.int64]]:
        """Yield this rank's micro-batches of a global batch; the last batch leaves some empty."""
        share = batch_size // self.num_ranks
        for begin in range(self.rank * share, (self.rank + 1) * share, self.micro_batch_size):
            yield indices[begin : begin + self.micro_batch_size]


@dataclass
class SoFar:
    """What the loop knows after a step; it grows, and a training goes on from it.

    Attributes:
        step: The last that was taken, counted from the recipe's first; 0 = none.
        losses: (step, loss) of the steps that are kept.
        num_tokens: Trained on, by this rank.
    """

    step: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    num_tokens: int = 0


@dataclass(frozen=True)
class Trained:
    """What the loop reports."""

    losses: tuple[tuple[int, float], ...]
    num_tokens: int


def global_batches(
    spec: TrialSpec, train: TokenSplit, first_epoch: int = 0, num_done: int = 0
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the examples of each optimizer step; an epoch's last, smaller batch is kept.

    The order of a trial that resumes goes on where its start was kept.

    Args:
        spec: The trial.
        train: The training tokens.
        first_epoch: Where the order of the data starts.
        num_done: Steps that lie behind, in a training that goes on from a checkpoint.
    """
    taken, epoch, behind = 0, first_epoch, max(num_done, spec.steps_before)
    while True:
        for batch in epoch_batches(spec, train, epoch):
            if taken == spec.recipe.train_steps:
                return
            if taken >= behind:
                yield batch
            taken += 1
        epoch += 1


def epoch_batches(spec: TrialSpec, train: TokenSplit, epoch: int) -> list[npt.NDArray[np.int64]]:
    """Return the batches of one epoch by the recipe's sampler.

    ``length-bucketed`` sorts each run of ``BUCKET_BATCHES`` random batches by length before
    cutting it, and then shuffles the batches: fewer lengths in a batch, but other batches.
    """
    size, num = spec.recipe.batch_size, len(train)
    order = epoch_order(spec.seed, spec.task.data_sha256, epoch, num)
    if spec.recipe.sampler == "random":
        return [order[begin : begin + size] for begin in range(0, num, size)]
    lengths, batches = np.diff(train.offsets), []
    for begin in range(0, num, size * BUCKET_BATCHES):
        run = order[begin : begin + size * BUCKET_BATCHES]
        run = run[np.argsort(lengths[run], kind="stable")]
        batches += [run[at : at + size] for at in range(0, len(run), size)]
    key = stream(spec.seed, spec.task.data_sha256, "order", epoch, len(batches))
    return [batches[place] for place in permutation(key, len(batches))]


def finetune(
    engine: Engine,
    spec: TrialSpec,
    train: TokenSplit,
    shard: Shard,
    on_step: Callable[[int, float], None],
    position: tuple[int, int] = (0, 0),
    keep: Callable[[int], None] = lambda step: None,
    problem: Problem | None = None,
    so_far: SoFar | None = None,
    at_boundary: Callable[[SoFar], None] = lambda so_far: None,
    alive: Callable[[], None] = lambda: None,
) -> Trained:
    """Take all optimizer steps of a trial.

    The loss of a step is the sum over the global batch divided by its global count (rule 13).
    Nothing within a step waits for the device: losses are read, and gradients that were not
    finite noticed, at the steps that are kept.

    Args:
        engine: Rewound for the trial.
        spec: The trial.
        train: The training tokens.
        shard: This rank's part.
        on_step: Told the step and its loss.
        position: (epoch, step) at which the random streams go on, from a carried state.
        keep: Called after every step; may read the masters.
        problem: The task's kind; None = one label for each example.
        so_far: From which the training goes on, of an engine that stands there too.
        at_boundary: Called last after every step, when all is known of it.
        alive: Called before every micro-batch: a step of many may take long on slow hardware.

    Raises:
        TrialFailure: The loss or a gradient is not finite (class ``diverged``).
    """
    recipe, problem = spec.recipe, problem or Labelled(spec.task.problem)
    so_far = so_far or SoFar()
    keep_every = max(1, recipe.train_steps // NUM_LOSSES_KEPT)
    engine.classifier.train()
    so_far.step = max(so_far.step, spec.steps_before)
    batches = global_batches(spec, train, position[0], so_far.step)
    for step, indices in enumerate(batches, start=so_far.step + 1):
        drop_seed = stream(spec.seed, spec.task.data_sha256, "dropout", position[1] + step)
        torch.manual_seed((drop_seed + shard.rank) % 2**63)
        hide_key = stream(spec.seed, spec.task.data_sha256, "mlm", position[1] + step)
        num_counted = problem.num_counted(train, indices, hide_key)
        total = torch.zeros((), device=engine.device)
        for part in shard.parts(indices, recipe.batch_size):
            alive()
            weight = 1.0 if len(part) else 0.0  # an empty share still takes part in the step
            chosen = part if len(part) else indices[:1]
            batch = problem.batch(train, chosen, shard.layout, hide_key).to(engine.device)
            loss = problem.summed_loss(engine(batch), batch) * (weight / num_counted)
            engine.backward(loss)
            total += loss.detach()
            so_far.num_tokens += batch.num_tokens if weight else 0
        engine.step()
        so_far.step = step
        keep(step)
        if step % keep_every == 0 or step == recipe.train_steps:
            value = _over_ranks(total, shard)
            _check_finite(engine, step, value)
            so_far.losses.append((step, value))
            on_step(step, value)
        at_boundary(so_far)
    if not all(torch.isfinite(weights).all() for weights in engine.classifier.parameters()):
        raise _diverged(f"The weights are not finite after step {recipe.train_steps}")
    tokens = torch.tensor(so_far.num_tokens, device=engine.device)
    return Trained(tuple(so_far.losses), int(_over_ranks(tokens, shard)))


def _check_finite(engine: Engine, step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise _diverged(f"The training loss is {loss} at step {step}")
    num_skipped = int(engine.optimizer.num_skipped)
    if num_skipped:  # the kernel leaves such an update out without a word
        what = f"The gradient was not finite at {num_skipped} of the first {step} steps"
        raise _diverged(f"{what}, loss {loss:g}")


def _over_ranks(total: torch.Tensor, shard: Shard) -> float:
    if shard.num_ranks > 1:
        torch.distributed.all_reduce(total)
    return float(total)


def _diverged(what: str) -> TrialFailure:
    remedy = "Lower recipe.learning_rate, add warm-up, or set recipe.max_grad_norm."
    return TrialFailure(FailureClass.DIVERGED, f"{what}. {remedy}")
