"""Pruning by one global threshold: torch's global_unstructured, NumPy's partition, and ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils import prune

from benchmarks.measure import OURS, PLAIN, Case, Report, Sample, interleave, run_fresh, timed
from benchmarks.shapes import bert_prunable
from search_spaces.prunable import PrunableSet
from workers.bits import Bools
from workers.mask import Mask
from workers.pruners import global_magnitude

TORCH = "torch global_unstructured"
NUMPY = "NumPy partition"
PAGE_MIB = 4096 / 2**20
Arrays: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
Removed: TypeAlias = Callable[[], Bools]  # tells, after the measurement, what was removed


@dataclass(frozen=True)
class Size:
    """How much is measured, and which peer beside ours."""

    model: str
    num_layers: int
    hidden: int
    inner: int
    num_rounds: int
    peer: str
    sparsity: float = 0.7

    @property
    def prunable(self) -> PrunableSet:
        """The matrices."""
        return bert_prunable(self.num_layers, self.hidden, self.inner)


@dataclass(frozen=True)
class Outcome:
    """What one pruning cost and which weights it took.

    Attributes:
        sample: Seconds, and MiB by which the process's memory peaked above its start.
        num_asked: Weights that were to be removed.
        num_removed: Weights that were.
        num_ties: Weights equal to the threshold.
        is_lowest_first: Whether of those the ones of lowest index were removed.
    """

    sample: Sample
    num_asked: int
    num_removed: int
    num_ties: int
    is_lowest_first: bool


# At BERT-large's size torch would need 14 GiB and a minute for each prune, going by BERT-base.
FULL = (
    Size("BERT-base", num_layers=12, hidden=768, inner=3072, num_rounds=3, peer=TORCH),
    Size("BERT-large", num_layers=24, hidden=1024, inner=4096, num_rounds=2, peer=NUMPY),
)
QUICK = (Size("MiniLM-L6", num_layers=6, hidden=384, inner=1536, num_rounds=1, peer=TORCH),)
SMOKE = Size("tiny", num_layers=2, hidden=16, inner=32, num_rounds=1, peer=TORCH)


def run(smoke: bool, quick: bool = False) -> Report:
    """Measure one prune of dense, normally distributed weights, each in a fresh process."""
    sizes = (SMOKE,) if smoke else QUICK if quick else FULL
    return Report(
        variants={
            TORCH: "prune.global_unstructured(..., L1Unstructured, amount=K); leaves float masks "
            "and masked copies on the modules",
            NUMPY: "np.partition of all magnitudes at K, and np.packbits of what is above; all "
            "weights equal to the threshold go",
            OURS: "global_magnitude of `workers/pruners.py` over fp32 arrays: histograms of their "
            "bits, chunk by chunk; returns packed bits",
        },
        settings={
            "weights": "normal(0, 0.02), fp32",
            "memory": "peak resident memory above the start, without the weights themselves",
            "processes": "a fresh one for each prune, with glibc's own memory settings",
            "threads": "1",
            "rounds": ", ".join(f"{size.num_rounds} ({size.model})" for size in sizes)
            + ", each with weights of its own",
        },
        cases=tuple(_case(size, in_fresh_processes=not smoke) for size in sizes),
    )


def _case(size: Size, in_fresh_processes: bool) -> Case:
    outcomes: dict[str, list[Outcome]] = {size.peer: [], OURS: []}

    def measured(variant: str, number: int) -> Sample:
        work = (variant, size, number)  # a process of its own takes seconds to start
        found = run_fresh(PLAIN, prune_once, *work) if in_fresh_processes else prune_once(*work)
        outcomes[variant].append(found)
        return found.sample

    variants = {name: partial(measured, name) for name in outcomes}
    samples = interleave(variants, size.num_rounds, num_warmups=0)
    facts = tuple(_fact(name, found) for name, found in outcomes.items())
    name = f"{size.model}, {size.prunable.num_weights:,} weights, sparsity {size.sparsity:g}"
    return Case(name, samples, facts)


def _fact(name: str, found: Sequence[Outcome]) -> str:
    removed = ", ".join(f"{one.num_removed:,} of {one.num_asked:,}" for one in found)
    ties = ", ".join(str(one.num_ties) for one in found)
    in_order = sum(one.is_lowest_first for one in found)
    return (
        f"{name}: removed {removed} asked for; weights at the threshold: {ties}; of those the "
        f"lowest indices removed in {in_order} of {len(found)} rounds."
    )


def prune_once(variant: str, size: Size, seed: int) -> Outcome:
    """Prune seeded weights once in this process."""
    prunable = size.prunable
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(shape, generator=generator).mul_(0.02).numpy()
        for name, shape in zip(prunable.names, prunable.shapes, strict=True)
    }
    num_asked = round(prunable.num_weights * size.sparsity)
    before = _memory_mib("VmRSS")
    work = partial(_PRUNERS[variant], weights, prunable, num_asked)
    find_removed, sample = timed(work)
    sample = {**sample, "extra_mib": max(PAGE_MIB, _memory_mib("VmHWM") - before)}
    removed = find_removed()
    magnitudes = np.concatenate([np.abs(values).reshape(-1) for values in weights.values()])
    num_ties, is_lowest_first = ties_of(removed, magnitudes)
    return Outcome(sample, num_asked, int(removed.sum()), num_ties, is_lowest_first)


def ties_of(removed: Bools, magnitudes: npt.NDArray[np.float32]) -> tuple[int, bool]:
    """Return how many weights equal the threshold, and whether the first of them were removed.

    Args:
        removed: True where a weight was removed, by canonical index.
        magnitudes: Of all weights, in the same order.
    """
    threshold = magnitudes[removed].max()
    assert not (magnitudes[~removed] < threshold).any(), "a smaller weight was kept"
    tied = removed[magnitudes == threshold]
    return len(tied), bool(tied[: tied.sum()].all())


def _by_torch(weights: Arrays, _prunable: PrunableSet, num_removed: int) -> Removed:
    modules = [_module(values) for values in weights.values()]  # the same memory
    pairs = [(module, "weight") for module in modules]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=num_removed)

    def removed() -> Bools:
        masks = [module.get_buffer("weight_mask").numpy().reshape(-1) for module in modules]
        return np.concatenate([mask == 0 for mask in masks])

    return removed


def _module(values: npt.NDArray[np.float32]) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(torch.from_numpy(values))
    return module


def _by_numpy(weights: Arrays, prunable: PrunableSet, num_removed: int) -> Removed:
    magnitudes = np.concatenate([np.abs(values).reshape(-1) for values in weights.values()])
    threshold = np.partition(magnitudes, num_removed - 1)[num_removed - 1]
    kept = Mask.from_bool(prunable, magnitudes > threshold)
    return lambda: ~kept.kept()


def _by_ours(weights: Arrays, prunable: PrunableSet, num_removed: int) -> Removed:
    pruned = global_magnitude(weights, Mask.ones(prunable), num_removed)
    return lambda: ~pruned.mask.kept()


_PRUNERS = {TORCH: _by_torch, NUMPY: _by_numpy, OURS: _by_ours}


def _memory_mib(field: str) -> float:
    """Return a field of this process's status: VmRSS is now, VmHWM the peak.

    ``getrusage`` would not do: its peak counts the parent's memory before the program started.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024
