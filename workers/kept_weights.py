"""A whole model that a trial keeps after a step, for trials that start from it (method rule 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from search_spaces.contracts import ArtifactRef
from workers.artifacts import read_artifact

Arrays = Mapping[str, npt.NDArray[np.float32]]
_BACKBONE, _HEAD = "backbone/", "head/"


@dataclass(frozen=True)
class KeptWeights:
    """The fp32 masters of a model, removed weights +0.0.

    Attributes:
        backbone: By canonical name.
        head: By the parameter's name in the task model.
    """

    backbone: Arrays
    head: Arrays

    def to_bytes(self) -> bytes:
        """Return them as a safetensors file; equal weights give equal bytes."""
        named = {_BACKBONE + name: values for name, values in self.backbone.items()}
        named |= {_HEAD + name: values for name, values in self.head.items()}
        data: bytes = save(named)
        return data

    @staticmethod
    def read(file: ArtifactRef) -> KeptWeights:
        """Read a file that ``to_bytes`` made.

        Raises:
            TrialFailure: It is missing, or is not what was committed.
        """
        named = load(read_artifact(file))

        def below(prefix: str) -> Arrays:
            names = sorted(name for name in named if name.startswith(prefix))
            return {name.removeprefix(prefix): named[name] for name in names}

        return KeptWeights(below(_BACKBONE), below(_HEAD))
