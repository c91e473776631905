"""The rounds of the reference script, in plain PyTorch: train, evaluate, save, prune, rewind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

from benchmarks import plain_steps
from benchmarks.sentences import MAX_LENGTH
from search_spaces.prunable import PrunableSet
from search_spaces.trial import TrialSpec
from workers.classifier import Classifier
from workers.finetune import global_batches
from workers.tokens import TokenSplit

ORIGINAL = "_orig"  # what torch's pruning adds to a parameter's name


class PlainLineage:
    """One lineage of BERT-Tickets' loop, written anew from its description.

    Args:
        start: Holds theta_0 and the head, to which every round returns.
        prunable: The matrices that are pruned.
        spec: The dense trial: recipe, seed and task.
        splits: The tokens.
        folder: Where each round leaves its model and masks.
    """

    def __init__(
        self,
        start: Classifier,
        prunable: PrunableSet,
        spec: TrialSpec,
        splits: dict[str, TokenSplit],
        folder: Path,
    ) -> None:
        self._spec, self._splits, self._folder = spec, splits, folder
        self._start = {n: v.clone() for n, v in start.model.state_dict().items()}
        self._loop = plain_steps.reference_loop(start, None, spec.recipe, splits["train"])
        self._modules = [
            plain_steps.module_of(self._loop.model, start, name) for name in prunable.names
        ]

    def rounds(self, counts: Sequence[int]) -> Iterator[tuple[float, float]]:
        """Yield each round's accuracy on the report split and its last training loss.

        Args:
            counts: Weights that are removed in all after each round but the last.
        """
        for before, count in zip((0, *counts), (*counts, None), strict=True):
            self._restart()
            loss = self._loop.steps(global_batches(self._spec, self._splits["train"]))
            yield self._accuracy(), loss
            if count is not None:
                self._prune(count - before)
            self._save()

    def _restart(self) -> None:
        """Rewind weights and head; optimizer and schedule begin anew."""
        with torch.no_grad():
            for name, parameter in self._loop.model.named_parameters():
                parameter.copy_(self._start[name.removesuffix(ORIGINAL)])
        self._loop = self._loop.restarted(self._spec.recipe)

    def _accuracy(self) -> float:
        split, size = self._splits["report"], self._spec.recipe.batch_size
        self._loop.model.eval()
        num_right = 0
        with torch.no_grad():
            for begin in range(0, len(split), size):
                chosen = np.arange(begin, min(begin + size, len(split)))
                inputs = plain_steps.padded(split, chosen, MAX_LENGTH)
                logits = self._loop.model(**inputs).logits
                num_right += int((logits.argmax(-1) == inputs["labels"]).sum())
        return num_right / len(split)

    def _prune(self, num_more: int) -> None:
        """Remove the smallest of the trained weights that are left."""
        places: list[tuple[nn.Module, str]] = [(module, "weight") for module in self._modules]
        prune.global_unstructured(places, prune.L1Unstructured, amount=num_more)

    def _save(self) -> None:
        torch.save(self._loop.model.state_dict(), self._folder / "model.pt")
        masks = [dict(module.named_buffers()).get("weight_mask") for module in self._modules]
        torch.save(masks, self._folder / "mask.pt")
