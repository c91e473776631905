"""What one rank must know to go on with a training as if nothing had happened."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from pydantic import Field

from search_spaces.canonical import Frozen
from search_spaces.contracts import ArtifactInfo


class RankState(Frozen):
    """One rank's state beside its tensors: written as JSON, whose numbers are exact.

    The data's order comes from counters (method rule 3), so that its place is all there is to
    keep of the sampler; the loop goes on by the step, and the rest says so to people.
    """

    rank: int
    step: int
    epoch: int = Field(description="Passes through the data before the next batch.")
    batch: int = Field(description="Its place in its epoch.")
    num_taken: int = Field(description="Steps of the schedule.")
    losses: tuple[tuple[int, float], ...]
    num_tokens: int = Field(description="Of this rank.")
    train_s: float = Field(description="Seconds of training so far, by all attempts.")
    kept: dict[str, ArtifactInfo] = Field(description="Weights that were kept on the way.")
    random_of: dict[str, Any] = Field(description="What is no array of Python's and NumPy's.")


def random_tensors(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the arrays of all of this process's random states."""
    _, words, _ = random.getstate()
    _, numpy_words, *_ = np.random.get_state(legacy=True)
    found = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(numpy_words, dtype=np.int64)),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def random_values() -> dict[str, Any]:
    """Return the rest of the random states, as JSON takes it."""
    version, _, gauss = random.getstate()
    name, _, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {"python": [version, gauss], "numpy": [name, position, has_gauss, cached]}


def restore_random(
    tensors: dict[str, torch.Tensor], values: dict[str, Any], device: torch.device
) -> None:
    """Put all of this process's random states where they were."""
    version, gauss = values["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    name, position, has_gauss, cached = values["numpy"]
    words = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, words, position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)
