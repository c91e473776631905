"""What the training benchmarks work on: a model, sentences, a mask and a recipe, as a trial."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import Model
from benchmarks.sentences import MAX_LENGTH, Kind
from search_spaces.contracts import Compute, TaskPlace, TrialRequest
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.recipes import Recipe
from search_spaces.trial import TRAINING_CODE_VERSION, Outputs, TaskIdentity, TrialSpec
from workers.engine import Engine
from workers.finetune import BUCKET_BATCHES, Shard, finetune
from workers.mask import Mask
from workers.pruners import random_uniform
from workers.ranks import RankEnv, connect, disconnect
from workers.tokens import TokenSplit

SEED = 1
LAST_STEP = 10**9  # so far away that the learning rate is constant, as the peers' is


@dataclass(frozen=True)
class Workload:
    """A trial on sentences that are made here, without the files of a real one.

    Attributes:
        facts: The model's.
        spec: The trial.
        split: Its training sentences: one epoch is ``BUCKET_BATCHES`` batches.
        mask: Its mask, random.
    """

    facts: ModelFacts
    spec: TrialSpec
    split: TokenSplit
    mask: Mask

    def engine(self, num_ranks: int = 1) -> Engine:
        """Return a new engine for it."""
        return Engine(self.request(num_ranks))

    def request(self, num_ranks: int = 1) -> TrialRequest:
        """Return the request that an engine is made for."""
        return TrialRequest(
            spec=self.spec,
            label="benchmark",
            attempt="benchmark",
            attempt_uri="",  # nothing is published
            outputs=Outputs(),
            model=self.facts.place,
            task=TaskPlace(name="benchmark", source={}, select={}),
            cache_folder="",
            compute=Compute(num_ranks=num_ranks),
        )

    def rewind(self, engine: Engine, mask: Mask | None) -> None:
        """Start the trial on an engine, under a mask or dense."""
        engine.rewind(self.spec, mask, None, self.split.words(engine.num_words))

    def shard(self, rank: int = 0, num_ranks: int = 1) -> Shard:
        """Return what a rank computes of a batch, at once."""
        return Shard(rank, num_ranks, self.spec.recipe.batch_size // num_ranks)

    def our_steps(
        self,
        engine: Engine,
        shard: Shard | None = None,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
    ) -> Callable[[int], float]:
        """Return the worker's own loop; given a round's number, it returns the last loss.

        A round is an epoch of its own, and the training goes on from round to round.
        """
        num_steps = self.spec.recipe.train_steps

        def run_round(number: int) -> float:
            position = (number, number * num_steps)
            trained = finetune(
                engine, self.spec, self.split, shard or self.shard(), on_step, position
            )
            return trained.losses[-1][1]

        return run_round

    def with_recipe(self, **changes: Any) -> Workload:
        """Return the same work under a recipe that differs in some fields."""
        recipe = self.spec.recipe.model_copy(update=changes)
        return replace(self, spec=self.spec.model_copy(update={"recipe": recipe}))


def workload(
    model: Model, kind: Kind, *, batch_size: int, sparsity: float = 0.5, **recipe: Any
) -> Workload:
    """Return the work of one model on one kind of sentences.

    Args:
        model: The model, which must be installed.
        kind: What the sentences are like.
        batch_size: Sentences of a step.
        sparsity: Of the mask.
        **recipe: Fields of the recipe; dropout is off unless given.
    """
    facts = resolve_model(ModelSpecYaml(name=model.name, source=model.source))
    split = kind.draw(BUCKET_BATCHES * batch_size, SEED)
    num_removed = round(facts.prunable.num_weights * sparsity)
    task = TaskIdentity(
        problem="classification",
        num_labels=kind.num_labels,
        metric="accuracy",
        data_sha256="0" * 64,  # the sentences are made here
        select_sha256="0" * 64,
        num_train_examples=len(split),
        max_length=MAX_LENGTH,
    )
    values: dict[str, Any] = {
        "lr_horizon_steps": LAST_STEP,
        "learning_rate": 2e-5,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }
    spec = TrialSpec(
        model=facts.identity,
        task=task,
        recipe=Recipe(**(values | {"batch_size": batch_size} | recipe)),
        seed=SEED,
        code_version=TRAINING_CODE_VERSION,
    )
    return Workload(facts, spec, split, random_uniform(facts.prunable, num_removed, SEED))


def folder_of(work: Workload) -> Path:
    """Return where the model's files are."""
    return Path(work.facts.place.folder)


@contextmanager
def single_rank() -> Iterator[None]:
    """Be a rank of one thread, as the workers are, until the block ends."""
    torch.set_num_threads(1)
    connect(RankEnv(master_port=free_port()))
    try:
        yield
    finally:
        disconnect()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def common_settings(work: str, batch_size: int, dropout: float) -> dict[str, str]:
    """Return the conditions that all training benchmarks share, for their reports."""
    return {
        "sentences": work,
        "batch size": str(batch_size),
        "dtype": "fp32",
        "dropout": f"{dropout:g}",
        "device": f"CPU, kernels for {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "memory": "freed memory is kept in the process, for all, as in our workers",
    }
