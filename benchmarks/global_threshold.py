"""Pruning by one global threshold: torch.nn.utils.prune.global_unstructured, and ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils import prune

from benchmarks.measure import OURS, PLAIN, Case, Report, Sample, interleave, run_fresh, timed
from benchmarks.shapes import bert_prunable
from workers.bits import Bools
from workers.mask import Mask
from workers.pruners import global_magnitude

TORCH = "torch global_unstructured"
PAGE_MIB = 4096 / 2**20


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    num_layers: int
    hidden: int
    inner: int
    num_rounds: int
    sparsity: float = 0.7


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


FULL = Size(num_layers=12, hidden=768, inner=3072, num_rounds=3)
SMOKE = Size(num_layers=2, hidden=16, inner=32, num_rounds=1)


def run(smoke: bool) -> Report:
    """Measure one prune of dense, normally distributed weights, each in a fresh process."""
    size = SMOKE if smoke else FULL
    outcomes: dict[str, list[Outcome]] = {TORCH: [], OURS: []}

    def measured(variant: str, number: int) -> Sample:
        work = (variant, size, number)  # a process of its own takes seconds to start
        found = prune_once(*work) if smoke else run_fresh(PLAIN, prune_once, *work)
        outcomes[variant].append(found)
        return found.sample

    variants = {name: partial(measured, name) for name in outcomes}
    samples = interleave(variants, size.num_rounds, num_warmups=0)
    num_weights = bert_prunable(size.num_layers, size.hidden, size.inner).num_weights
    facts = tuple(_fact(name, found) for name, found in outcomes.items())
    return Report(
        variants={
            TORCH: "prune.global_unstructured(..., L1Unstructured, amount=K); leaves float masks "
            "and masked copies on the modules",
            OURS: "global_magnitude of `workers/pruners.py` over fp32 arrays; returns packed bits",
        },
        settings={
            "weights": f"{num_weights:,} of a BERT-base's shapes, normal(0, 0.02), fp32",
            "memory": "peak resident memory above the start, without the weights themselves",
            "processes": "a fresh one for each prune, with glibc's own memory settings",
            "threads": "1",
            "rounds": f"{size.num_rounds}, each with weights of its own",
        },
        cases=(Case(f"sparsity {size.sparsity:g}", samples, facts),),
    )


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
    prunable = bert_prunable(size.num_layers, size.hidden, size.inner)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(shape, generator=generator).mul_(0.02).numpy()
        for name, shape in zip(prunable.names, prunable.shapes, strict=True)
    }
    num_asked = round(prunable.num_weights * size.sparsity)
    modules = {name: _module(values) for name, values in weights.items()}  # the same memory
    before = _memory_mib("VmRSS")
    if variant == TORCH:
        _, sample = timed(partial(_prune_by_torch, modules, num_asked))
    else:
        ones = Mask.ones(prunable)
        pruned, sample = timed(partial(global_magnitude, weights, ones, num_asked))
    sample = {**sample, "extra_mib": max(PAGE_MIB, _memory_mib("VmHWM") - before)}
    removed = _removed(modules) if variant == TORCH else ~pruned.mask.kept()
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


def _module(values: npt.NDArray[np.float32]) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(torch.from_numpy(values))
    return module


def _prune_by_torch(modules: dict[str, nn.Module], num_removed: int) -> None:
    pairs = [(module, "weight") for module in modules.values()]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=num_removed)


def _removed(modules: dict[str, nn.Module]) -> Bools:
    masks = [m.get_buffer("weight_mask").numpy().reshape(-1) for m in modules.values()]
    return np.concatenate([mask == 0 for mask in masks])


def _memory_mib(field: str) -> float:
    """Return a field of this process's status: VmRSS is now, VmHWM the peak.

    ``getrusage`` would not do: its peak counts the parent's memory before the program started.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024
