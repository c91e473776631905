"""A sweep's trials run one after the other, with a look at their weights before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import workers.trial
from cluster.local_executor import LocalExecutor
from search_spaces.contracts import ArtifactRef, Compute, TrialRequest, TrialResult
from search_spaces.models import ModelFacts
from search_spaces.resolve import TaskFacts
from search_spaces.trial import CARRY_ARTIFACT, PruneOutput, Trial
from tests.workers.running import artifact_ref, losses_of, run
from workers.mask import Mask
from workers.proof import prove_rewound
from workers.pruners import Pruned
from workers.trial import prune_outputs

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Watched:
    """A trial that was run.

    Attributes:
        mask: What it keeps, by the name of the weight; empty = dense.
        start: The backbone's fp32 masters where the trial proves its rewind.
        end: The same where it prunes.
    """

    request: TrialRequest
    result: TrialResult
    mask: Tensors
    start: Tensors
    end: Tensors

    @property
    def losses(self) -> list[float]:
        return losses_of(self.result)

    @property
    def num_ties(self) -> int:
        """Weights equal to the threshold of the one mask that it made."""
        (mask,) = self.result.masks.values()
        return mask.mask.num_ties


def run_watched(executor: LocalExecutor, wanted: TrialRequest) -> Watched:
    """Run a trial that must succeed."""
    seen: dict[str, Tensors] = {"mask": {}}

    def prove(start: Any, values: Any, mask: Mask | None) -> int:
        seen["start"] = copies(start)
        if mask:
            seen["mask"] = copies({name: mask.matrix(name) for name in mask.prunable.names})
        return prove_rewound(start, values, mask)

    def prune(request: TrialRequest, weights: Any, mask: Mask | None) -> dict[str, Pruned]:
        seen["end"] = copies(weights)
        return prune_outputs(request, weights, mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers.trial, "prove_rewound", prove)
        patch.setattr(workers.trial, "prune_outputs", prune)
        result = run(executor, wanted)
    return Watched(wanted, result, seen["mask"], seen["start"], seen["end"])


def copies(arrays: Mapping[str, np.ndarray]) -> Tensors:
    """Return copies of arrays as tensors."""
    return {name: torch.from_numpy(arrays[name].copy()) for name in arrays}


def request_for(
    trial: Trial, root: Path, model: ModelFacts, task: TaskFacts, done: list[Watched]
) -> TrialRequest:
    """Return the request to run a trial of a sweep, given all of its parents."""
    by_key = {parent.request.spec.key: parent for parent in done}

    def file_of(key: str, name: str) -> ArtifactRef:
        return artifact_ref(by_key[key].request, by_key[key].result, name)

    mask_file, mask, carry = None, trial.spec.mask_parent, trial.spec.carry_from
    if mask:
        output = PruneOutput(pruner=mask.pruner, num_removed=mask.num_removed)
        mask_file = file_of(mask.parent, output.artifact)
    return TrialRequest(
        spec=trial.spec,
        label="watched",
        attempt="a001-0000abcd",
        attempt_uri=str(root / "watched" / trial.key),
        outputs=trial.outputs,
        model=model.place,
        task=task.place,
        mask_file=mask_file,
        carry_file=file_of(carry, CARRY_ARTIFACT) if carry else None,
        cache_folder=str(root / "cache"),
        compute=Compute(),
    )
