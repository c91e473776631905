"""A fine-tuning step under a mask: the reference script's, dynamic padding's, and ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks import plain_steps
from benchmarks.measure import (
    OURS,
    Case,
    Goal,
    Report,
    Sample,
    interleave,
    per_step,
    timed,
    without,
)
from benchmarks.models import BERT_TINY, MINILM, Model, installed_models
from benchmarks.profiles import operations
from benchmarks.sentences import MNLI, SST2, Kind
from benchmarks.workload import Workload, common_settings, single_rank, workload
from workers.devices import has_bf16
from workers.finetune import BUCKET_BATCHES, global_batches

REFERENCE, DYNAMIC, BUCKETED = "reference script", "dynamic padding", "ours, by length"
NO_BF16 = "not measured: this CPU has neither AVX512-BF16 nor AMX"
# MiniLM-L6, reference script / ours: goal and floor.
GOALS = {
    ("fp32", SST2.name): (9.0, 7.0),
    ("bf16", SST2.name): (16.0, 11.0),
    ("bf16", MNLI.name): (7.0, 5.0),
}


@dataclass(frozen=True)
class Setting:
    """One case.

    Attributes:
        model: The model.
        kind: The sentences.
        num_steps: Steps of a round; of the variant by length it is an epoch.
        dtype: Ours; the peers are in fp32.
        is_by_length: Whether ours by length runs too.
    """

    model: Model
    kind: Kind
    num_steps: int
    dtype: str = "fp32"
    is_by_length: bool = False

    @property
    def name(self) -> str:
        """The case's title."""
        suffix = ", ours in bf16" if self.dtype == "bf16" else ""
        return f"{self.model.name}, lengths of {self.kind.name}{suffix}"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    settings: tuple[Setting, ...]
    num_rounds: int
    batch_size: int = 32
    dropout: float = 0.1


SMOKE = Size(
    (Setting(BERT_TINY, SST2, 2, is_by_length=True), Setting(BERT_TINY, MNLI, 2)), 1, batch_size=4
)


def full_size(quick: bool) -> Size:
    """Return the size of a real run."""
    models = installed_models()[-1:] if quick else installed_models()
    dtypes = ("fp32", "bf16") if has_bf16(torch.device("cpu")) else ("fp32",)
    kinds = (SST2,) if quick else (SST2, MNLI)
    num_steps = {(MINILM, SST2): 1 if quick else 3, (MINILM, MNLI): 2}
    settings = tuple(
        Setting(m, k, num_steps.get((m, k), 10), d, is_by_length=k == SST2 and not quick)
        for m in models
        for k in kinds
        for d in dtypes
    )
    return Size(settings, num_rounds=1 if quick else 3)


def run(smoke: bool, quick: bool = False) -> Report:
    """Measure full steps: batch, forward, backward, clipping, optimizer, schedule."""
    size = SMOKE if smoke else full_size(quick)
    with single_rank():
        cases = tuple(_case(setting, size, is_judged=not smoke) for setting in size.settings)
        common = common_settings(
            "of random words with the lengths of SST-2 and of MNLI", size.batch_size, size.dropout
        )
    return Report(
        variants={
            REFERENCE: "BERT-Tickets' step, written anew from its description: padded to 128, "
            "masks by torch.nn.utils.prune.custom_from_mask, clip_grad_norm_, "
            "AdamW(foreach=False), loss.item() every step. Its model is that of the installed "
            "transformers, with SDPA attention",
            DYNAMIC: "plain PyTorch as a careful user would write it: padded to the longest of "
            "the batch, the same masks and clipping, AdamW(fused=True), no loss read",
            OURS: "finetune of `workers/finetune.py` on the engine of `workers/engine.py`: no "
            "padding, AdamW over survivors, run by DeepSpeed; losses are read at every step and "
            "all weights are checked once a round, as in a trial of so few steps",
            BUCKETED: "ours with sampler: length-bucketed; its batches are others, and a round "
            f"is a whole epoch of {BUCKET_BATCHES} of them, so that each length takes part. With "
            "SST-2's lengths only",
        },
        settings={
            "engine": "ours: DeepSpeed on 1 rank; peers: PyTorch",
            "sampler": f"random; all but '{BUCKETED}' get the same batches in the same round",
            **common,
            "dtype": "fp32; where a case says so, ours has bf16 weights and fp32 masters",
            "bf16": "measured" if has_bf16(torch.device("cpu")) else NO_BF16,
            "sparsity": "0.5, the same random mask for all",
            "ranks": "1",
            "rounds": f"{size.num_rounds} after 1 warm-up; steps of a round: "
            + ", ".join(
                dict.fromkeys(
                    f"{s.num_steps} ({s.model.name}, {s.kind.name})" for s in size.settings
                )
            ),
        },
        cases=cases,
    )


def _case(setting: Setting, size: Size, is_judged: bool) -> Case:
    samples = measure(setting, size)
    ends = ", ".join(f"{name} {rounds[-1]['loss']:.4f}" for name, rounds in samples.items())
    facts = (
        f"Loss of the last step: {ends} (equal but for the draws of dropout, and for the batches "
        "of the last one).",
        *((_profile(setting, size),) if is_judged else ()),
    )
    goals = goals_of(setting) if is_judged else ()
    return Case(setting.name, without(samples, "loss"), facts, goals)


def goals_of(setting: Setting) -> tuple[Goal, ...]:
    """Return what is wanted of a case: of our default and of our faster sampler."""
    found = GOALS.get((setting.dtype, setting.kind.name))
    if found is None or setting.model != MINILM:
        return ()
    target, floor = found
    return tuple(
        Goal("cpu_s_per_step", target, REFERENCE, floor, variant)
        for variant in (OURS, *((BUCKETED,) if setting.is_by_length else ()))
    )


def measure(setting: Setting, size: Size) -> dict[str, list[Sample]]:
    """Return seconds per step and the last loss of each round, by variant."""
    variants = _variants(_work(setting, size), setting.is_by_length)
    return interleave(variants, size.num_rounds)


def _work(setting: Setting, size: Size) -> Workload:
    return workload(
        setting.model,
        setting.kind,
        batch_size=size.batch_size,
        train_steps=setting.num_steps,
        dtype=setting.dtype,
        hidden_dropout=size.dropout,
        attention_dropout=size.dropout,
    )


def _profile(setting: Setting, size: Size) -> str:
    work = _work(setting, size)
    engine = work.engine()
    work.rewind(engine, work.mask)
    steps = work.our_steps(engine)
    steps(0)
    told = operations(partial(steps, 1))
    engine.destroy()
    return told


def _variants(work: Workload, is_by_length: bool) -> dict[str, Callable[[int], Sample]]:
    """Start three copies of one masked model, or four."""
    works = {OURS: work}
    if is_by_length:
        works[BUCKETED] = work.with_recipe(sampler="length-bucketed", train_steps=BUCKET_BATCHES)
    engines = {name: one.engine() for name, one in works.items()}
    start = work.with_recipe(dtype="fp32").engine()
    work.rewind(start, None)
    model, recipe = start.classifier, work.spec.recipe
    plain = {
        REFERENCE: plain_steps.reference_loop(model, work.mask, recipe, work.split),
        DYNAMIC: plain_steps.dynamic_loop(model, work.mask, recipe, work.split),
    }
    start.destroy()
    variants: dict[str, Callable[[int], Sample]] = {
        name: partial(_sample, recipe.train_steps, partial(_plain_round, loop, work))
        for name, loop in plain.items()
    }
    for name, engine in engines.items():
        works[name].rewind(engine, work.mask)
        steps = works[name].our_steps(engine)
        variants[name] = partial(_sample, works[name].spec.recipe.train_steps, steps)
    return variants


def _plain_round(loop: plain_steps.PlainLoop, work: Workload, number: int) -> float:
    return loop.steps(global_batches(work.spec, work.split, first_epoch=number))


def _sample(num_steps: int, run_round: Callable[[int], float], number: int) -> Sample:
    loss, seconds = timed(partial(run_round, number))
    return {**per_step(seconds, num_steps), "loss": loss}
