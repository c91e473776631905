"""The peers of the masked step: plain PyTorch loops over padded batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils import prune
from transformers import AutoModelForSequenceClassification

from search_spaces.recipes import Recipe, learning_rate_factor
from workers.classifier import Classifier
from workers.engine import parameter_groups
from workers.mask import Mask
from workers.tokens import TokenSplit

MAX_LENGTH = 128
Indices = npt.NDArray[np.int64]
Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PlainLoop:
    """A model that is trained by the common loop.

    Attributes:
        model: A masked task model of transformers.
        optimizer: Over its parameters.
        scheduler: Of the learning rate.
        inputs: Returns the model's arguments for a batch of examples.
        max_grad_norm: Clipping norm.
        reads_every_loss: Whether each step waits for its loss as a number.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    inputs: Callable[[Indices], Inputs]
    max_grad_norm: float
    reads_every_loss: bool

    def steps(self, batches: Iterable[Indices]) -> float:
        """Take one optimizer step a batch and return the last loss."""
        self.model.train()
        for batch in batches:
            loss: torch.Tensor = self.model(**self.inputs(batch)).loss
            loss.backward()  # type: ignore[no-untyped-call]
            if self.reads_every_loss:
                loss.item()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
            self.optimizer.step()
            self.scheduler.step()
            self.model.zero_grad()
        return loss.item()


def reference_loop(ours: Classifier, mask: Mask, recipe: Recipe, split: TokenSplit) -> PlainLoop:
    """Return BERT-Tickets' loop: every sentence is padded to 128 once, before training.

    Args:
        ours: Gives its weights and configuration, before it is masked.
        mask: The mask.
        recipe: The recipe.
        split: The tokens.
    """
    dataset = padded(split, np.arange(len(split)), MAX_LENGTH)

    def inputs(batch: Indices) -> Inputs:
        where = torch.from_numpy(batch)
        return {name: values[where] for name, values in dataset.items()}

    return _loop(ours, mask, recipe, inputs, is_reference=True)


def dynamic_loop(ours: Classifier, mask: Mask, recipe: Recipe, split: TokenSplit) -> PlainLoop:
    """Return a loop that pads to the longest of each batch; arguments as above."""

    def inputs(batch: Indices) -> Inputs:
        longest = int((split.offsets[batch + 1] - split.offsets[batch]).max())
        return padded(split, batch, longest)

    return _loop(ours, mask, recipe, inputs, is_reference=False)


def padded(split: TokenSplit, indices: Indices, length: int) -> Inputs:
    """Return examples as the padded arguments of a model of transformers."""
    ids = np.zeros((len(indices), length), dtype=np.int64)
    types, attention = np.zeros_like(ids), np.zeros_like(ids)
    for row, index in enumerate(indices):
        place = slice(split.offsets[index], split.offsets[index + 1])
        num_tokens = place.stop - place.start
        ids[row, :num_tokens] = split.ids[place]
        types[row, :num_tokens] = split.types[place]
        attention[row, :num_tokens] = 1
    arrays = {"input_ids": ids, "token_type_ids": types, "attention_mask": attention}
    labels = split.labels[indices].astype(np.int64)
    return {name: torch.from_numpy(a) for name, a in {**arrays, "labels": labels}.items()}


def _loop(
    ours: Classifier,
    mask: Mask,
    recipe: Recipe,
    inputs: Callable[[Indices], Inputs],
    is_reference: bool,
) -> PlainLoop:
    model = _masked_copy(ours, mask)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay),
        lr=recipe.learning_rate,
        betas=(recipe.adam_beta1, recipe.adam_beta2),
        eps=recipe.adam_epsilon,
        **({"foreach": False} if is_reference else {"fused": True}),
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, recipe)
    )
    return PlainLoop(model, optimizer, scheduler, inputs, recipe.max_grad_norm, is_reference)


def _masked_copy(ours: Classifier, mask: Mask) -> nn.Module:
    """Return transformers' own model with the same weights, masked as torch's pruning does it."""
    config = type(ours.model.config)(**ours.model.config.to_dict())
    model: nn.Module = AutoModelForSequenceClassification.from_config(
        config, attn_implementation="sdpa"
    ).float()
    model.load_state_dict(ours.model.state_dict())
    backbone = model.get_submodule(ours.family.prefix)
    for name in mask.prunable.names:
        module = backbone.get_submodule(name.removesuffix(".weight"))
        kept = torch.from_numpy(mask.matrix(name)).float()
        prune.custom_from_mask(module, "weight", kept)  # type: ignore[no-untyped-call]
    return model
