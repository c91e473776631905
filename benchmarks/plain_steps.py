"""The peers of the masked step: plain PyTorch loops over padded batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils import prune
from transformers import AutoModelForSequenceClassification

from benchmarks.sentences import MAX_LENGTH
from search_spaces.recipes import Recipe, learning_rate_factor
from workers.classifier import Classifier
from workers.mask import Mask
from workers.survivors import NO_DECAY
from workers.tokens import TokenSplit

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

    def restarted(self, recipe: Recipe) -> PlainLoop:
        """Return the reference script's loop over the same model with a new optimizer."""
        optimizer = reference_adamw(self.model, recipe)
        return replace(self, optimizer=optimizer, scheduler=scheduler(optimizer, recipe))


def reference_loop(
    ours: Classifier, mask: Mask | None, recipe: Recipe, split: TokenSplit
) -> PlainLoop:
    """Return BERT-Tickets' loop: every sentence is padded to 128 once, before training.

    Args:
        ours: Gives its weights and configuration; dense.
        mask: The mask; None = dense.
        recipe: The recipe.
        split: The tokens.
    """
    dataset = padded(split, np.arange(len(split)), MAX_LENGTH)

    def inputs(batch: Indices) -> Inputs:
        where = torch.from_numpy(batch)
        return {name: values[where] for name, values in dataset.items()}

    model = pruned_copy(ours, mask, recipe)
    optimizer = reference_adamw(model, recipe)
    schedule = scheduler(optimizer, recipe)
    return PlainLoop(model, optimizer, schedule, inputs, recipe.max_grad_norm, True)


def dynamic_loop(ours: Classifier, mask: Mask, recipe: Recipe, split: TokenSplit) -> PlainLoop:
    """Return a loop that pads to the longest of each batch; arguments as above."""

    def inputs(batch: Indices) -> Inputs:
        longest = int((split.offsets[batch + 1] - split.offsets[batch]).max())
        return padded(split, batch, longest)

    model = pruned_copy(ours, mask, recipe)
    optimizer = careful_adamw(model, recipe)
    schedule = scheduler(optimizer, recipe)
    return PlainLoop(model, optimizer, schedule, inputs, recipe.max_grad_norm, False)


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


def reference_adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return the optimizer of the reference script: one parameter after the other."""
    return torch.optim.AdamW(_groups(model, recipe), **_adam(recipe), foreach=False)


def careful_adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return the fastest AdamW that torch has on a CPU."""
    return torch.optim.AdamW(_groups(model, recipe), **_adam(recipe), fused=True)


def scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the recipe's schedule."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, recipe)
    )


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Split the parameters: weight decay on matrices and embeddings, none on the others."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[not name.endswith(NO_DECAY)].append(parameter)
    return [
        {"params": groups[True], "weight_decay": recipe.weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def _adam(recipe: Recipe) -> dict[str, Any]:
    return {
        "lr": recipe.learning_rate,
        "betas": (recipe.adam_beta1, recipe.adam_beta2),
        "eps": recipe.adam_epsilon,
    }


def plain_copy(ours: Classifier, recipe: Recipe) -> nn.Module:
    """Return transformers' own model with the same weights, attention by SDPA."""
    config = type(ours.model.config)(**ours.model.config.to_dict())
    config.hidden_dropout_prob = recipe.hidden_dropout
    config.attention_probs_dropout_prob = recipe.attention_dropout
    model: nn.Module = AutoModelForSequenceClassification.from_config(
        config, attn_implementation="sdpa"
    ).float()
    model.load_state_dict(ours.model.state_dict())
    return model


def pruned_copy(ours: Classifier, mask: Mask | None, recipe: Recipe) -> nn.Module:
    """Return a copy that is masked as torch's pruning does it: a buffer and a product."""
    model = plain_copy(ours, recipe)
    for name in mask.prunable.names if mask else ():
        kept = torch.from_numpy(mask.matrix(name)).float() if mask else None
        prune.custom_from_mask(module_of(model, ours, name), "weight", kept)  # type: ignore[no-untyped-call]
    return model


def hooked_copy(ours: Classifier, mask: Mask, recipe: Recipe) -> nn.Module:
    """Return a copy with zeros in its weights, whose gradients are zeroed in place as they come."""
    model = plain_copy(ours, recipe)
    for name in mask.prunable.names:
        weight = module_of(model, ours, name).get_parameter("weight")
        removed = torch.from_numpy(~mask.matrix(name))
        weight.data.masked_fill_(removed, 0.0)
        weight.register_post_accumulate_grad_hook(_zeroing(removed))  # type: ignore[no-untyped-call]
    return model


def module_of(model: nn.Module, ours: Classifier, name: str) -> nn.Module:
    """Return the module of a copy that holds a prunable matrix."""
    backbone = model.get_submodule(ours.family.prefix)
    return backbone.get_submodule(name.removesuffix(".weight"))


def _zeroing(removed: torch.Tensor) -> Callable[[torch.Tensor], None]:
    def zero(weight: torch.Tensor) -> None:
        assert weight.grad is not None
        weight.grad.masked_fill_(removed, 0.0)

    return zero
