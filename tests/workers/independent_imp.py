"""Iterative magnitude pruning with rewinding, written a second time without the project.

Only torch, transformers and torch.nn.utils.prune: padded batches, a loop by hand, a model read
anew from its files for each round, masks as torch's reparametrisation. From the project come its
inputs alone: token arrays, the order of the examples, a head's first values. Source of the steps:
Chen et al. 2020, arXiv 2007.12223, Algorithm 1, and its released code (BERT-Tickets, LT_glue.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import prune
from transformers import BertForSequenceClassification, get_linear_schedule_with_warmup

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Data:
    """Training examples: i has the tokens from ``offsets[i]`` to ``offsets[i + 1]``.

    ``order`` returns the order of the examples in an epoch.
    """

    ids: np.ndarray
    types: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    order: Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Protocol:
    """How a round trains, in steps, and what it takes over from the one before.

    ``keeps_head``: the trained head; ``runs_on``: the place in the order of the data.
    """

    steps: int
    horizon: int
    warmup: int
    batch_size: int
    learning_rate: float
    decay: float
    keeps_head: bool = False
    runs_on: bool = False


@dataclass(frozen=True)
class Round:
    """One training: masked weights before and after it, losses, the next epoch of the data."""

    start: Tensors
    end: Tensors
    losses: list[float]
    next_epoch: int


@dataclass(frozen=True)
class Trainer:
    """Trains from the same pre-trained weights each time.

    Attributes:
        folder: The pre-trained BERT.
        data: What it trains on.
        head: First values of what pre-training does not give, by its name in the task model.
    """

    folder: Path
    data: Data
    head: Tensors

    def search(self, protocol: Protocol, amounts: list[float]) -> Iterator[tuple[Round, Tensors]]:
        """Yield each round and the masks pruned from it, from dense on."""
        last, masks = None, {}
        for amount in amounts:
            last = self.train(protocol, masks, last)
            masks = pruned(self.prunable(last.end), masks, amount)
            yield last, masks

    def train(self, protocol: Protocol, masks: Tensors, last: Round | None = None) -> Round:
        """Rewind, and train under masks (empty = dense), after round ``last`` if there is one."""
        head = self.head
        if last and protocol.keeps_head:
            head = {name: last.end[name.removeprefix("bert.")] for name in head}
        model = self._model(masks, head)
        start = values(model)
        first_epoch = last.next_epoch if last and protocol.runs_on else 0
        losses = fit(model, self.data, protocol, first_epoch)
        epochs = ceil(protocol.steps / ceil(len(self.data.labels) / protocol.batch_size))
        return Round(start, values(model), losses, first_epoch + epochs)

    def prunable(self, weights: Tensors) -> Tensors:
        """Return the weights that are pruned: the matrices of the layers, and of a pooler."""
        matrices = ("query.weight", "key.weight", "value.weight", "dense.weight")
        return {
            name: weight
            for name, weight in weights.items()
            if name.endswith(matrices) and f"bert.{name}" not in self.head
        }

    def _model(self, masks: Tensors, head: Tensors) -> Any:
        """Return the pre-trained model, read anew: no dropout, under masks, with a head."""
        model = BertForSequenceClassification.from_pretrained(
            str(self.folder),
            num_labels=len(head["classifier.bias"]),
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",
            local_files_only=True,
        )
        with torch.no_grad():
            for name, first in head.items():
                model.get_parameter(name).copy_(first)
        for name, mask in masks.items():
            module = model.bert.get_submodule(name.removesuffix(".weight"))
            prune.custom_from_mask(module, "weight", mask)
        return model.train()


def pruned(weights: Tensors, masks: Tensors, amount: float) -> Tensors:
    """Return masks after one more global pruning of trained weights by torch.

    Args:
        weights: Those that are pruned, by name.
        masks: The masks under which they were trained; empty = dense.
        amount: A count (int), or a share of the weights that remain (float).
    """
    modules = {name: torch.nn.Module() for name in weights}
    for name, module in modules.items():
        module.weight = torch.nn.Parameter(weights[name])
        if masks:
            prune.custom_from_mask(module, "weight", masks[name])
    matrices = [(module, "weight") for module in modules.values()]
    prune.global_unstructured(matrices, prune.L1Unstructured, amount=amount)
    return {name: module.get_buffer("weight_mask").bool() for name, module in modules.items()}


def fit(model: Any, data: Data, protocol: Protocol, first_epoch: int) -> list[float]:
    """Train a model and return each step's loss."""
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": w} for w in (0.0, protocol.decay)
    ]
    for name, parameter in model.named_parameters():
        groups[not name.endswith(("bias", "LayerNorm.weight"))]["params"].append(parameter)
    optimizer = torch.optim.AdamW(groups, lr=protocol.learning_rate, eps=1e-8)
    schedule = get_linear_schedule_with_warmup(optimizer, protocol.warmup, protocol.horizon)
    losses = []
    for batch in islice(padded_batches(data, first_epoch, protocol.batch_size), protocol.steps):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def padded_batches(data: Data, first_epoch: int, size: int) -> Iterator[Tensors]:
    """Yield batches without end as the model's arguments, each epoch's smaller last one too."""
    for order in map(data.order, count(first_epoch)):
        for begin in range(0, len(order), size):
            chosen = order[begin : begin + size]
            places = [slice(data.offsets[i], data.offsets[i + 1]) for i in chosen]
            yield {
                "input_ids": padded([data.ids[place] for place in places]),
                "token_type_ids": padded([data.types[place] for place in places]),
                "attention_mask": padded([np.ones_like(data.ids[place]) for place in places]),
                "labels": torch.from_numpy(data.labels[chosen]).long(),
            }


def padded(rows: list[np.ndarray]) -> torch.Tensor:
    """Return rows below each other, zeros behind the shorter ones: (rows, longest), int64."""
    tensors = [torch.from_numpy(row.astype(np.int64)) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def values(model: Any) -> Tensors:
    """Return copies of all weights by name, the backbone's without its prefix, masks applied."""
    found = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().clone()
        if name.endswith("_orig"):
            name = name.removesuffix("_orig")
            weight *= model.get_buffer(f"{name}_mask")
        found[name.removeprefix("bert.")] = weight
    return found
