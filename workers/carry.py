"""What a round inherits beside its mask: the trained head, and where the random streams stand."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load, save

from search_spaces.recipes import Recipe


@dataclass(frozen=True)
class Carried:
    """A trained head by parameter name, and the next (epoch, step) of the streams."""

    head: dict[str, npt.NDArray[np.float32]]
    epoch: int
    step: int

    def to_bytes(self) -> bytes:
        """Return it as a safetensors file."""
        position = {"epoch": str(self.epoch), "step": str(self.step)}
        data: bytes = save(self.head, metadata=position)
        return data

    @staticmethod
    def from_bytes(data: bytes) -> Carried:
        """Read a safetensors file that ``to_bytes`` made."""
        (length,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        return Carried(load(data), int(metadata["epoch"]), int(metadata["step"]))


def starting_point(recipe: Recipe, carried: Carried | None) -> tuple[int, int]:
    """Return the (epoch, step) at which a trial's streams begin."""
    if carried is None or recipe.rng == "restart":
        return 0, 0
    return carried.epoch, carried.step


def restore_head(head: dict[str, Any], carried: Carried) -> None:
    """Overwrite a fresh head with the carried one."""
    with torch.no_grad():
        for name, parameter in head.items():
            parameter.copy_(torch.from_numpy(carried.head[name]))
