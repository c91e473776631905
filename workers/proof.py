"""What each trial proves about itself: a real rewind before, bit-exact zeros after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from search_spaces.contracts import FailureClass
from workers.bits import chunks
from workers.failures import TrialFailure
from workers.mask import Mask

Arrays = Mapping[str, npt.NDArray[np.float32]]


def prove_rewound(
    start: Arrays, values: Iterable[tuple[str, npt.NDArray[np.float32]]], mask: Mask | None
) -> int:
    """Compare the engine's fp32 masters with theta_0 x mask, bit for bit.

    Args:
        start: The masters, by canonical name.
        values: theta_0, or a control's start: made anew for this proof, from the files, so that
            nothing that training could have changed is trusted.
        mask: The trial's mask; None = dense.

    Returns:
        Number of backbone tensors that were equal.

    Raises:
        TrialFailure: One of them is not.
    """
    num_equal = 0
    for name, expected in values:
        if name not in start:  # a pooler that the task model does not have
            continue
        kept = mask.matrix(name) if mask and name in mask.prunable.names else None
        if not _starts_from(expected, kept, start[name]):
            raise _broken(f"{name} does not start from theta_0 under its mask")
        num_equal += 1
    return num_equal


def prove_zeros(weights: Arrays, mask: Mask | None, where: str) -> int:
    """Check that every removed weight is +0.0 after training.

    Returns:
        Number of removed weights that the task model has.

    Raises:
        TrialFailure: One of them is not.
    """
    num_zero = 0
    for name in mask.prunable.names if mask else ():
        if name not in weights:  # a pooler that the task model does not have
            continue
        removed = weights[name].view(np.int32)[~mask.matrix(name)] if mask else np.zeros(0)
        if removed.any():
            raise _broken(
                f"{np.count_nonzero(removed)} removed weights of {name} moved in the {where}"
            )
        num_zero += removed.size
    return num_zero


def _starts_from(
    theta0: npt.NDArray[np.float32],
    kept: npt.NDArray[np.bool_] | None,
    start: npt.NDArray[np.float32],
) -> bool:
    """Return whether ``start`` is theta_0 where ``kept`` (None = everywhere), else +0.0.

    Compares the bits, chunk by chunk: no copy of a whole matrix is made.
    """
    if theta0.shape != start.shape:
        return False
    expected, found = (np.ascontiguousarray(array).reshape(-1) for array in (theta0, start))
    if kept is None and expected.size % 2 == 0:  # two weights at a time
        expected, found = expected.view(np.int64), found.view(np.int64)
    else:
        expected, found = expected.view(np.int32), found.view(np.int32)
    flat = None if kept is None else kept.reshape(-1)
    return all(
        np.array_equal(expected[part] if flat is None else expected[part] * flat[part], found[part])
        for part in chunks(slice(0, expected.size))
    )


def _broken(what: str) -> TrialFailure:
    message = f"Proof failed: {what}. The result is discarded; please report this."
    return TrialFailure(FailureClass.ERROR, message)
