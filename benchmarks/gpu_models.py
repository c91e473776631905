"""The models and sentences that are measured on a GPU, ours and transformers' own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from benchmarks.sentences import CLS, FIRST_WORD, LENGTHS, SEP, SHARES
from search_spaces.contracts import Compute, ModelPlace, TaskPlace, TrialRequest
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.recipes import Recipe
from search_spaces.trial import Outputs, TaskIdentity, TrialSpec
from workers.batches import make_batch
from workers.engine import Engine
from workers.mask import Mask
from workers.pruners import random_uniform
from workers.tokens import TokenSplit

SPARSITY, NUM_SENTENCES, MAX_LENGTH = 0.5, 4096, 128
Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Size:
    """A BERT, and how much of it is measured."""

    name: str
    num_layers: int
    hidden: int
    inner: int
    num_steps: int = 5
    num_rounds: int = 5
    batch_size: int = 32

    @property
    def config(self) -> BertConfig:
        """Its configuration; heads are of 64, and dropout is the recipe's matter."""
        return BertConfig(
            hidden_size=self.hidden,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.hidden // 64,
            intermediate_size=self.inner,
        )


SIZES = (
    Size("BERT-base", 12, 768, 3072, num_steps=10),
    Size("BERT-large", 24, 1024, 4096),
)
SMOKE = Size("smoke", 2, 64, 128, num_steps=2, num_rounds=1, batch_size=4)


def sst2_lengths(draw: np.random.Generator, num: int) -> Indices:
    """Return lengths with the quantiles of SST-2's training sentences (mean 13.3)."""
    return np.rint(np.interp(draw.random(num), SHARES, LENGTHS)).astype(np.int64)


def mnli_lengths(draw: np.random.Generator, num: int) -> Indices:
    """Return lengths with MNLI's mean, 38.7, and 95% of them below 74, as it has."""
    return np.rint(draw.lognormal(3.551, 0.458, num)).astype(np.int64).clip(6, MAX_LENGTH)


TASKS = {"SST-2-like": (sst2_lengths, 11_570), "MNLI-like": (mnli_lengths, 28_000)}


def sentences(task: str) -> TokenSplit:
    """Return sentences of random words, as many different ones as the task has."""
    lengths_of, num_words = TASKS[task]
    draw = np.random.default_rng(1)
    lengths = lengths_of(draw, NUM_SENTENCES)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = draw.integers(FIRST_WORD, FIRST_WORD + num_words, offsets[-1]).astype(np.int32)
    ids[offsets[:-1]], ids[offsets[1:] - 1] = CLS, SEP
    labels = draw.integers(0, 2, NUM_SENTENCES).astype(np.float64)
    return TokenSplit(ids, np.zeros_like(ids), offsets, labels, num_truncated=0)


@dataclass(frozen=True)
class World:
    """One model on disk, with a warm engine of ours on the device."""

    size: Size
    facts: ModelFacts
    engine: Engine
    mask: Mask

    def spec(self, attention_dropout: float, hidden_dropout: float = 0.1) -> TrialSpec:
        """Return what is trained."""
        return _request(self.size, self.facts, attention_dropout, hidden_dropout).spec


def open_world(size: Size, folder: Path) -> World:
    """Save a random model and start an engine on it."""
    torch.manual_seed(0)
    BertModel(size.config).save_pretrained(str(folder))
    (folder / "tokenizer.json").write_text("{}")  # the sentences are tokens already
    source = ModelSpecYaml(name=size.name, source=str(folder), prunable="encoder+pooler")
    facts = resolve_model(source)
    num_removed = round(facts.prunable.num_weights * SPARSITY)
    mask = random_uniform(facts.prunable, num_removed, seed=1)
    return World(size, facts, Engine(_request(size, facts, 0.1, 0.1)), mask)


def _request(
    size: Size, facts: ModelFacts, attention_dropout: float, hidden_dropout: float
) -> TrialRequest:
    task = TaskIdentity(
        problem="classification",
        num_labels=2,
        metric="accuracy",
        data_sha256="0" * 64,
        select_sha256="0" * 64,
        num_train_examples=NUM_SENTENCES,
        max_length=MAX_LENGTH,
    )
    recipe = Recipe(
        train_steps=size.num_steps,
        lr_horizon_steps=100_000,
        batch_size=size.batch_size,
        learning_rate=2e-5,
        hidden_dropout=hidden_dropout,
        attention_dropout=attention_dropout,
        dtype="bf16",
    )
    spec = TrialSpec(model=facts.identity, task=task, recipe=recipe, seed=1, code_version=1)
    return TrialRequest(
        spec=spec,
        label=size.name,
        attempt="",
        attempt_uri="",
        outputs=Outputs(),
        model=ModelPlace(folder=facts.place.folder),
        task=TaskPlace(name="random", source={}, select={}),
        cache_folder="",
        compute=Compute(),
    )


def masked_model(world: World, spec: TrialSpec) -> nn.Module:
    """Return the model as the engine starts it, in fp32, with torch's masks on its matrices."""
    config = world.size.config
    config.num_labels, recipe = spec.task.num_labels, spec.recipe
    config.hidden_dropout_prob = recipe.hidden_dropout
    config.attention_probs_dropout_prob = recipe.attention_dropout
    model: nn.Module = AutoModelForSequenceClassification.from_config(config)
    backbone, engine = model.get_submodule("bert"), world.engine
    for part, parameters in ((backbone, engine.backbone), (model, engine.head)):
        own, start = dict(part.named_parameters()), engine.masters(parameters)
        with torch.no_grad():
            for name in start:
                own[name].copy_(torch.from_numpy(start[name]))
    for name in world.mask.prunable.names:
        module = backbone.get_submodule(name.removesuffix(".weight"))
        kept = torch.from_numpy(world.mask.matrix(name)).float()
        prune.custom_from_mask(module, "weight", kept)  # type: ignore[no-untyped-call]
    return model.to(engine.device).train()


def padded(
    split: TokenSplit, indices: Indices, length: int | None, device: torch.device
) -> dict[str, torch.Tensor]:
    """Return a model's arguments, padded to a length, or to the longest of the batch."""
    batch = make_batch(split, indices, "classification", "padded")
    assert batch.attention is not None
    inputs = {
        "input_ids": batch.ids,
        "token_type_ids": batch.types,
        "attention_mask": batch.attention,
    }
    if length is not None:
        missing = (0, length - batch.ids.shape[1])
        inputs = {name: nn.functional.pad(rows, missing) for name, rows in inputs.items()}
    return {name: rows.to(device) for name, rows in (inputs | {"labels": batch.labels}).items()}
