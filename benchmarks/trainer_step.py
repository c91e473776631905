"""A masked fine-tuning step: Hugging Face's Trainer, and ours, on batches of the same size."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

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
from benchmarks.plain_steps import hooked_copy
from benchmarks.sentences import SST2
from benchmarks.workload import SEED, Workload, common_settings, folder_of, single_rank, workload
from search_spaces.recipes import Recipe
from workers.engine import Engine
from workers.finetune import BUCKET_BATCHES, global_batches
from workers.tokens import TokenSplit

TRAINER = "Trainer"
RANDOM, BY_LENGTH = "random batches", "batches by length"
GOALS = {
    RANDOM: Goal("cpu_s_per_step", 2.5, TRAINER, floor=1.9),
    BY_LENGTH: Goal("cpu_s_per_step", 1.15, TRAINER),
}


@dataclass(frozen=True)
class Size:
    """How much is measured: (model, steps of a round of random batches), and which batches."""

    models: tuple[tuple[Model, int], ...]
    num_rounds: int
    orders: tuple[str, ...] = (RANDOM, BY_LENGTH)
    batch_size: int = 32
    dropout: float = 0.1


SMOKE = Size(((BERT_TINY, 2),), num_rounds=1, batch_size=2)


def full_size(quick: bool) -> Size:
    """Return the size of a real run."""
    num_steps = {BERT_TINY: 20, MINILM: 5}
    if quick:
        return Size(((BERT_TINY, num_steps[BERT_TINY]),), num_rounds=1, orders=(RANDOM,))
    return Size(tuple((model, num_steps[model]) for model in installed_models()), num_rounds=3)


def run(smoke: bool, quick: bool = False) -> Report:
    """Measure steps: collating, forward, backward, clipping, optimizer, schedule."""
    size = SMOKE if smoke else full_size(quick)
    with single_rank():
        cases = tuple(
            _case(
                model,
                order,
                num_steps if order == RANDOM else BUCKET_BATCHES,
                size,
                is_judged=not smoke,
            )
            for model, num_steps in size.models
            for order in size.orders
        )
        common = common_settings(
            "of random words with the lengths of SST-2", size.batch_size, size.dropout
        )
    return Report(
        variants={
            TRAINER: "transformers.Trainer with its default optimizer (adamw_torch_fused), "
            "DataCollatorWithPadding, clipping by 1.0, no logging, saving or progress bar; masks "
            "by a hook that zeroes a gradient in place. From on_train_begin to the last "
            "on_step_end",
            OURS: "finetune of `workers/finetune.py` on the engine of `workers/engine.py`: no "
            "padding, AdamW over survivors, run by DeepSpeed",
        },
        settings={
            "engine": "ours: DeepSpeed on 1 rank; peer: Trainer with accelerate, 1 process",
            "sampler": f"'{RANDOM}': the same for both, handed to Trainer by its sampler. "
            f"'{BY_LENGTH}': ours has sampler: length-bucketed, Trainer the order of its "
            "group_by_length, by transformers' own function; a round is a whole group of "
            f"{BUCKET_BATCHES} batches, as both sort {BUCKET_BATCHES} at a time in large tasks",
            **common,
            "sparsity": "0.5, the same random mask for both",
            "ranks": "1",
            "rounds": f"{size.num_rounds}, each from theta_0, those with random batches after 1 "
            "warm-up; steps of a round: "
            + ", ".join(f"{steps} ({model.name})" for model, steps in size.models)
            + f" or {BUCKET_BATCHES} by length",
        },
        cases=cases,
    )


def _case(model: Model, order: str, num_steps: int, size: Size, is_judged: bool) -> Case:
    samples = measure(model, order, num_steps, size)
    ends = ", ".join(f"{name} {rounds[-1]['loss']:.4f}" for name, rounds in samples.items())
    facts = (f"Mean loss of the last round: {ends}.",)
    goals = (GOALS[order],) if is_judged and model == MINILM else ()
    return Case(f"{model.name}, {order}", without(samples, "loss"), facts, goals)


def measure(model: Model, order: str, num_steps: int, size: Size) -> dict[str, list[Sample]]:
    """Return seconds per step and the mean loss of each round, by variant."""
    work = workload(
        model,
        SST2,
        batch_size=size.batch_size,
        train_steps=num_steps,
        sampler="length-bucketed" if order == BY_LENGTH else "random",
        hidden_dropout=size.dropout,
        attention_dropout=size.dropout,
    )
    engine = work.engine()
    with tempfile.TemporaryDirectory() as folder:
        peer = _trainer_round(work, engine, folder)
        num_warmups = int(order == RANDOM)  # 50 steps by length come after it, and are warm enough
        ours = partial(_our_round, work, engine)
        variants: dict[str, Callable[[int], Sample]] = {TRAINER: peer, OURS: ours}
        return interleave(variants, size.num_rounds, num_warmups)


def _our_round(work: Workload, engine: Engine, number: int) -> Sample:
    work.rewind(engine, work.mask)
    losses: list[float] = []
    steps = work.our_steps(engine, on_step=lambda step, loss: losses.append(loss))
    _, seconds = timed(partial(steps, number))
    return {**per_step(seconds, work.spec.recipe.train_steps), "loss": sum(losses) / len(losses)}


def _trainer_round(work: Workload, engine: Engine, folder: str) -> Callable[[int], Sample]:
    """Return the peer's round: a new Trainer each time, because each one trains once."""
    work.rewind(engine, None)
    recipe = work.spec.recipe
    model = hooked_copy(engine.classifier, work.mask, recipe)
    start = {name: values.clone() for name, values in model.state_dict().items()}
    tokenizer = AutoTokenizer.from_pretrained(str(folder_of(work)), local_files_only=True)

    def run_round(number: int) -> Sample:
        model.load_state_dict(start)
        clock = StepClock()
        with _outside_of_the_gang():
            trainer = OrderedTrainer(
                order_of(work, number),
                model=model,
                args=_arguments(recipe, folder),
                train_dataset=examples_of(work.split),
                data_collator=DataCollatorWithPadding(tokenizer),
            )
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(clock)
            loss: float = trainer.train().training_loss
        assert trainer.model_wrapped is model, "Trainer is to work in one plain process"
        return {**per_step(clock.seconds, recipe.train_steps), "loss": loss}

    return run_round


def _arguments(recipe: Recipe, folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        use_cpu=True,
        max_steps=recipe.train_steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=recipe.max_grad_norm,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


@contextmanager
def _outside_of_the_gang() -> Iterator[None]:
    """Hide that this process is a rank, or Trainer would wrap the model for several of them."""
    rank = os.environ.pop("LOCAL_RANK")
    try:
        yield
    finally:
        os.environ["LOCAL_RANK"] = rank


def order_of(work: Workload, number: int) -> list[int]:
    """Return the examples of a round in Trainer's order, batch after batch."""
    if work.spec.recipe.sampler == "random":
        return np.concatenate(list(global_batches(work.spec, work.split, number))).tolist()  # type: ignore[no-any-return]
    generator = torch.Generator().manual_seed(SEED + number)
    lengths = np.diff(work.split.offsets).tolist()
    indices: list[int] = get_length_grouped_indices(
        lengths, work.spec.recipe.batch_size, mega_batch_mult=BUCKET_BATCHES, generator=generator
    )
    return indices


def examples_of(split: TokenSplit) -> list[dict[str, Any]]:
    """Return a split as Trainer's users have it: lists by the model's names."""
    return [
        {
            "input_ids": split.ids[start:stop].tolist(),
            "token_type_ids": split.types[start:stop].tolist(),
            "attention_mask": [1] * int(stop - start),
            "labels": int(label),
        }
        for start, stop, label in zip(
            split.offsets[:-1], split.offsets[1:], split.labels, strict=True
        )
    ]


class OrderedTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that takes its examples in a given order."""

    def __init__(self, order: Sequence[int], **options: Any) -> None:
        self._order = order
        super().__init__(**options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._order


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Measures all steps of a training, without what Trainer does before and after them."""

    def __init__(self) -> None:
        self._wall = self._cpu = 0.0
        self.seconds: Sample = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note how long it took so far."""
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        self.seconds = {"cpu_s": cpu, "wall_s": wall}
