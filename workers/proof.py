"""What each trial proves about itself: a real rewind before, bit-exact zeros after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from search_spaces.checkpoint import iter_parameters
from search_spaces.contracts import FailureClass
from workers.failures import TrialFailure
from workers.mask import Mask

Arrays = Mapping[str, npt.NDArray[np.float32]]


def prove_rewound(start: Arrays, folder: Path, mask: Mask | None) -> int:
    """Compare the engine's fp32 masters with theta_0 x mask, bit for bit.

    The files are read again here: nothing that training could have changed is trusted.

    Returns:
        Number of backbone tensors that were equal.

    Raises:
        TrialFailure: One of them is not.
    """
    num_equal = 0
    for name, values in iter_parameters(folder):
        if name not in start:  # a pooler that the task model does not have
            continue
        expected = np.ascontiguousarray(values)
        if mask is not None and name in mask.prunable.names:
            expected = np.where(mask.matrix(name), expected, np.float32(0.0))
        if not _same_bits(expected, start[name]):
            raise _broken(f"{name} does not start from theta_0 under its mask")
        num_equal += 1
    return num_equal


def prove_zeros(weights: Arrays, mask: Mask | None, where: str) -> int:
    """Check that every removed weight is +0.0 after training.

    Returns:
        Number of removed weights.

    Raises:
        TrialFailure: One of them is not.
    """
    num_zero = 0
    for name in mask.prunable.names if mask else ():
        removed = weights[name].view(np.int32)[~mask.matrix(name)] if mask else np.zeros(0)
        if removed.any():
            raise _broken(
                f"{np.count_nonzero(removed)} removed weights of {name} moved in the {where}"
            )
        num_zero += removed.size
    return num_zero


def _same_bits(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    """Return whether two arrays are equal bit for bit; 8 bytes at a time where they divide."""
    word = np.int64 if one.size % 2 == 0 else np.int32
    return one.shape == other.shape and np.array_equal(
        one.reshape(-1).view(word), other.reshape(-1).view(word)
    )


def _broken(what: str) -> TrialFailure:
    message = f"Proof failed: {what}. The result is discarded; please report this."
    return TrialFailure(FailureClass.ERROR, message)
