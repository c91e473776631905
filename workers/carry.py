"""What a round inherits beside its mask: the trained head, and where the random streams stand."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from search_spaces.recipes import Recipe


@dataclass(frozen=True)
class Carried:
    """A trained head by parameter name, and the next (epoch, step) of the streams."""

    head: dict[str, npt.NDArray[np.float32]]
    epoch: int
    step: int

    def to_bytes(self) -> bytes:
        """Return it as a safetensors file; equal states give equal bytes."""
        position = {"epoch": str(self.epoch), "step": str(self.step)}
        data: bytes = save(self.head, metadata=position)
        start = _data_start(data)
        # safetensors writes metadata in random order
        header = json.dumps(json.loads(data[8:start]), sort_keys=True).encode()
        header += b" " * (-len(header) % 8)  # the data begin at a multiple of 8
        return struct.pack("<Q", len(header)) + header + data[start:]

    @staticmethod
    def from_bytes(data: bytes) -> Carried:
        """Read a safetensors file that ``to_bytes`` made."""
        metadata = json.loads(data[8 : _data_start(data)])["__metadata__"]
        return Carried(load(data), int(metadata["epoch"]), int(metadata["step"]))


def _data_start(data: bytes) -> int:
    (length,) = struct.unpack("<Q", data[:8])
    return 8 + int(length)


def starting_point(recipe: Recipe, carried: Carried | None) -> tuple[int, int]:
    """Return the (epoch, step) at which a trial's streams begin."""
    if carried is None or recipe.rng == "restart":
        return 0, 0
    return carried.epoch, carried.step
