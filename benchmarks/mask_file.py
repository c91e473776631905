"""Bytes and seconds of keeping a mask: torch.save of float masks, and our Arrow file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.measure import OURS, Case, Report, Sample, interleave, timed
from benchmarks.shapes import bert_prunable
from search_spaces.prunable import PrunableSet
from workers.mask import Mask
from workers.mask_file import read_mask, write_mask
from workers.pruners import random_uniform

TORCH = "torch.save"
Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    prunable: PrunableSet
    num_rounds: int
    sparsities: tuple[float, ...] = (0.5, 0.7, 0.9)


FULL = Size(bert_prunable(12, 768, 3072), num_rounds=7)
QUICK = Size(FULL.prunable, num_rounds=2, sparsities=(0.7,))
SMOKE = Size(bert_prunable(2, 16, 32), num_rounds=1)


def run(smoke: bool, quick: bool = False) -> Report:
    """Measure masks of a BERT-base, whose removed weights are drawn at random."""
    size = SMOKE if smoke else QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        cases = tuple(_case(size, sparsity, Path(folder)) for sparsity in size.sparsities)
    return Report(
        variants={
            TORCH: "torch.save of a dict of float32 masks, as the reference script keeps them; "
            "torch.load(weights_only=True)",
            OURS: "write_mask and read_mask of `workers/mask_file.py`: packed bits, zstd, every "
            "byte checked by sha256 when read; then one bool array for each matrix",
        },
        settings={
            "files": "in the temporary folder, without fsync; read from a warm page cache",
            "masks": "uniform at random, the hardest to compress",
            "threads": "1",
            "rounds": f"{size.num_rounds} after 1 warm-up",
        },
        cases=cases,
    )


def _case(size: Size, sparsity: float, folder: Path) -> Case:
    prunable = size.prunable
    num_weights, num_removed = prunable.num_weights, round(prunable.num_weights * sparsity)
    mask = random_uniform(prunable, num_removed, seed=1)
    packed, entropy = num_weights / 8, entropy_bytes(num_weights, num_removed)
    samples = interleave(
        {
            TORCH: partial(_round_trip, mask, folder / "mask.pt", _float_writer(mask), _load),
            OURS: partial(
                _round_trip, mask, folder / "mask.arrow", partial(_write, mask), _reader(prunable)
            ),
        },
        size.num_rounds,
    )
    own = samples[OURS][0]["file_mb"] * 1e6
    facts = (
        f"{num_weights:,} weights, {num_removed:,} removed; every file read back gave each bit.",
        f"One bit a weight is {packed / 1e6:.3f} MB; the entropy of such a mask is "
        f"{entropy / 1e6:.3f} MB, and our file is {own / entropy:.3f} of it.",
    )
    return Case(f"sparsity {sparsity:g}", samples, facts)


def entropy_bytes(num_weights: int, num_removed: int) -> float:
    """Return the fewest bytes that masks of this sparsity need on average."""
    shares = (num_removed / num_weights, 1 - num_removed / num_weights)
    return -num_weights * sum(share * math.log2(share) for share in shares) / 8


def _round_trip(
    mask: Mask,
    path: Path,
    write: Callable[[Path], object],
    read: Callable[[Path], Arrays],
    _round: int,
) -> Sample:
    """Write and read a file, and check that it gives the mask back."""
    path.unlink(missing_ok=True)
    _, writing = timed(partial(write, path))
    arrays, reading = timed(partial(read, path))
    for name in mask.prunable.names:
        assert np.array_equal(arrays[name].astype(bool), mask.matrix(name)), name
    sample = {f"write_{quantity}": value for quantity, value in writing.items()}
    sample |= {f"read_{quantity}": value for quantity, value in reading.items()}
    return sample | {"file_mb": path.stat().st_size / 1e6}


def _float_writer(mask: Mask) -> Callable[[Path], None]:
    floats = {name: torch.from_numpy(mask.matrix(name)).float() for name in mask.prunable.names}
    return partial(torch.save, floats)


def _load(path: Path) -> Arrays:
    loaded = torch.load(path, weights_only=True)
    return {name: tensor.numpy() for name, tensor in loaded.items()}


def _write(mask: Mask, path: Path) -> None:
    path.write_bytes(write_mask(mask, {}))


def _reader(prunable: PrunableSet) -> Callable[[Path], Arrays]:
    def read(path: Path) -> Arrays:
        mask = read_mask(path.read_bytes(), prunable, str(path))
        return {name: mask.matrix(name) for name in prunable.names}

    return read
