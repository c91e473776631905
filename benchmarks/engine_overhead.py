"""What our engine and loop add to a plain PyTorch loop over the same unpadded model."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.measure import (
    OURS,
    Case,
    Goal,
    Report,
    Sample,
    interleave,
    per_step,
    spread,
    timed,
    without,
)
from benchmarks.models import BERT_TINY, MINILM, Model, installed_models
from benchmarks.plain_steps import careful_adamw, scheduler
from benchmarks.sentences import SST2
from benchmarks.workload import Workload, common_settings, folder_of, free_port, workload
from workers.batches import Batch, make_batch
from workers.classifier import Classifier
from workers.engine import WORD_EMBEDDINGS, Engine
from workers.finetune import Shard, global_batches
from workers.labelled import summed_loss
from workers.ranks import RankEnv, connect, disconnect
from workers.survivors import SurvivorAdamW

SAME, DENSE = "plain loop, same optimizer", "plain loop, dense AdamW"
MAX_OVERHEAD = 0.10


@dataclass(frozen=True)
class Size:
    """How much is measured: (model, steps of a round)."""

    models: tuple[tuple[Model, int], ...]
    num_rounds: int
    ranks: tuple[int, ...] = (1, 2)
    batch_size: int = 32
    dropout: float = 0.1


SMOKE = Size(((BERT_TINY, 2),), num_rounds=1, batch_size=4)


def full_size(quick: bool) -> Size:
    """Return the size of a real run."""
    if quick:
        return Size(((BERT_TINY, 15),), num_rounds=1, ranks=(1,))
    num_steps = {BERT_TINY: 30, MINILM: 6}
    return Size(tuple((model, num_steps[model]) for model in installed_models()), num_rounds=3)


def run(smoke: bool, quick: bool = False) -> Report:
    """Measure full steps on one rank, and on two that share the machine."""
    size = SMOKE if smoke else full_size(quick)
    common = common_settings(
        "of random words with the lengths of SST-2", size.batch_size, size.dropout
    )
    return Report(
        variants={
            SAME: "the same unpadded model and SurvivorAdamW in a loop of plain PyTorch, without "
            "DeepSpeed, seeds of dropout, reports or checks. On two ranks "
            "DistributedDataParallel sums the whole gradients",
            DENSE: "the same unpadded model in a plain loop without a mask: clip_grad_norm_, "
            "AdamW(fused=True). On two ranks DistributedDataParallel",
            OURS: "finetune of `workers/finetune.py` on the engine of `workers/engine.py`; on two "
            "ranks each updates the tensors that it owns",
        },
        settings={
            "engine": "ours: DeepSpeed; peers: PyTorch",
            "sampler": "random; every variant gets the same batches in the same round",
            **common,
            "threads": "1 a rank",
            "sparsity": "0.5, the same random mask; none for the dense peer",
            "ranks": "as the case says, by gloo on this machine; CPU seconds are rank 0's",
            "rounds": f"{size.num_rounds} after 1 warm-up; steps of a round: "
            + ", ".join(f"{steps} ({model.name})" for model, steps in size.models),
        },
        cases=tuple(
            _case(model, num_steps, num_ranks, size, is_judged=not smoke)
            for model, num_steps in size.models
            for num_ranks in size.ranks
        ),
    )


def _case(model: Model, num_steps: int, num_ranks: int, size: Size, is_judged: bool) -> Case:
    samples = measure(model, num_steps, num_ranks, size)
    rounds = zip(samples[OURS], samples[SAME], strict=True)
    added = spread([ours["wall_s_per_step"] / same["wall_s_per_step"] - 1 for ours, same in rounds])
    ends = ", ".join(f"{name} {rounds[-1]['loss']:.4f}" for name, rounds in samples.items())
    facts = (
        f"Wall seconds of ours against '{SAME}': {added['median']:+.1%} "
        f"({added['q1']:+.1%} to {added['q3']:+.1%}).",
        f"Loss of the last step: {ends}.",
    )
    target = 1 / (1 + MAX_OVERHEAD)
    goal = Goal("wall_s_per_step", target, SAME, meaning=f"at most {MAX_OVERHEAD:.0%} more")
    return Case(
        f"{model.name}, {num_ranks} rank{'s' * (num_ranks > 1)}",
        without(samples, "loss"),
        facts,
        (goal,) if is_judged else (),
    )


def measure(model: Model, num_steps: int, num_ranks: int, size: Size) -> dict[str, list[Sample]]:
    """Return rank 0's seconds per step and the last loss of each round, by variant."""
    port, spawn = free_port(), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_ranks, mp_context=spawn) as pool:
        envs = [RankEnv(rank, num_ranks, master_port=port) for rank in range(num_ranks)]
        work = partial(measure_rank, model=model, num_steps=num_steps, size=size)
        return next(iter(pool.map(work, envs)))


def measure_rank(env: RankEnv, model: Model, num_steps: int, size: Size) -> dict[str, list[Sample]]:
    """Do one rank's part of all variants; the ranks go through them together."""
    torch.set_num_threads(1)
    connect(env)
    try:
        work = workload(
            model,
            SST2,
            batch_size=size.batch_size,
            train_steps=num_steps,
            hidden_dropout=size.dropout,
            attention_dropout=size.dropout,
        )
        return interleave(_variants(work, env), size.num_rounds)
    finally:
        disconnect()


def _variants(work: Workload, env: RankEnv) -> dict[str, Callable[[int], Sample]]:
    engine = work.engine(env.world_size)
    work.rewind(engine, None)
    shard = work.shard(env.rank, env.world_size)
    loops = {
        SAME: _same_loop(work, engine, shard).steps,
        DENSE: _dense_loop(work, engine, shard).steps,
    }
    work.rewind(engine, work.mask)
    runs: dict[str, Callable[[int], float]] = {**loops, OURS: work.our_steps(engine, shard)}
    return {name: partial(_sample, work.spec.recipe.train_steps, r) for name, r in runs.items()}


def _sample(num_steps: int, run_round: Callable[[int], float], number: int) -> Sample:
    if torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()
    loss, seconds = timed(partial(run_round, number))
    return {**per_step(seconds, num_steps), "loss": loss}


@dataclass(frozen=True)
class UnpaddedLoop:
    """The loop that a careful user writes around the unpadded model.

    Attributes:
        model: Returns the logits of a batch; its gradients are means over ranks.
        update: Clips, steps and frees the gradients.
        work: The work.
        shard: This rank's part of it.
    """

    model: Callable[[Batch], torch.Tensor]
    update: Callable[[], None]
    work: Workload
    shard: Shard

    def steps(self, number: int) -> float:
        """Take the steps of a round and return the last loss."""
        spec, split, shard = self.work.spec, self.work.split, self.shard
        for indices in global_batches(spec, split, number):
            (part,) = shard.parts(indices, spec.recipe.batch_size)
            batch = make_batch(split, part, spec.task.problem)
            logits = self.model(batch)
            loss = summed_loss(logits, batch.labels, spec.task.problem) / len(indices)
            (loss * shard.num_ranks).backward()  # type: ignore[no-untyped-call]
            self.update()
        total = loss.detach()
        if shard.num_ranks > 1:
            torch.distributed.all_reduce(total)
        return float(total)


def _same_loop(work: Workload, engine: Engine, shard: Shard) -> UnpaddedLoop:
    """Return the loop with our optimizer, which here has nothing to sum: the model does it."""
    model = _unpadded_copy(work, engine)
    optimizer = SurvivorAdamW(model.named_parameters())
    backbone = model.backbone_parameters()
    words = np.flatnonzero(work.split.words(engine.num_words))
    embedding = model.backbone.get_submodule(WORD_EMBEDDINGS)
    embedding.sparse = shard.num_ranks == 1  # what ours does, and summing over ranks cannot
    optimizer.begin(
        work.spec.recipe,
        {parameter: parameter.detach().clone() for parameter in model.parameters()},
        {
            backbone[name]: torch.from_numpy(np.flatnonzero(work.mask.matrix(name)))
            for name in work.mask.prunable.names
        },
        {embedding.weight: torch.from_numpy(words)},
    )

    def update() -> None:
        optimizer.collect()
        optimizer.step()

    return UnpaddedLoop(_over_ranks(model, shard), update, work, shard)


def _dense_loop(work: Workload, engine: Engine, shard: Shard) -> UnpaddedLoop:
    model, recipe = _unpadded_copy(work, engine), work.spec.recipe
    optimizer = careful_adamw(model, recipe)
    schedule = scheduler(optimizer, recipe)

    def update() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        model.zero_grad()

    return UnpaddedLoop(_over_ranks(model, shard), update, work, shard)


def _unpadded_copy(work: Workload, engine: Engine) -> Classifier:
    model = Classifier(folder_of(work), work.spec.task)
    model.load_state_dict(engine.classifier.state_dict())
    model.set_dropout(work.spec.recipe)
    model.train()
    return model


def _over_ranks(model: Classifier, shard: Shard) -> Callable[[Batch], torch.Tensor]:
    return DistributedDataParallel(model) if shard.num_ranks > 1 else model
