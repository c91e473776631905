"""Do layouts and dtypes train to the same scores? Paired over seeds, with dropout (rule 23).

    python -m benchmarks.equivalence benchmarks/equivalence.yaml docs/results/equivalence.json

Every ticket of the sweep is trained once in each variant. A variant is equivalent to the
reference at a task and sparsity if the 90% t interval of the mean difference of the select
scores lies inside +-delta; that is two one-sided tests at 5%. A CPU without bf16 emulates it, which
the record says (``workers/emulated.py``).
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine
from benchmarks.measure import RANK, run_fresh
from cluster.attempts import WarmTrials
from cluster.resources import usable_cpus
from orchestrator.requests import request_maker
from orchestrator.statistics import t_interval
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from search_spaces.contracts import SilentReporter, TrialRequest, TrialResult
from search_spaces.places import cache_folder
from workers.batches import Layout
from workers.ranks import RankEnv, connect

DELTA = 0.01  # of the metric's range
CONFIDENCE = 0.9
REFERENCE = "padded, fp32"
VARIANTS: Mapping[str, tuple[Layout, str]] = {  # layout, dtype
    REFERENCE: ("padded", "fp32"),
    "unpadded, fp32": ("unpadded", "fp32"),
    "unpadded, bf16": ("unpadded", "bf16"),
}


@dataclass(frozen=True)
class Group:
    """Trials that differ in their seed only."""

    task: str
    sparsity: float


def requests_of(sweep: Path, folder: Path) -> dict[tuple[Group, int, str], TrialRequest]:
    """Return a request for each ticket of the sweep, which has no lineages, in each variant."""
    context = SweepContext.open(sweep)
    store = Store(str(folder / "store"))
    make = request_maker(context.spec, context.models, context.tasks, store, cache_folder())
    found = {}
    for trial in (trial for trial in context.trials if trial.spec.mask is not None):
        role = trial.main_role
        plain = make(trial, "a001-00000000")
        for name, (layout, dtype) in VARIANTS.items():
            recipe = plain.spec.recipe.model_copy(update={"dtype": dtype})
            spec = plain.spec.model_copy(update={"recipe": recipe})
            compute = plain.compute.model_copy(update={"layout": layout})
            request = plain.model_copy(update={"spec": spec, "compute": compute})
            found[Group(role.task, round(role.sparsity, 3)), role.seed, name] = request
    return found


def train_all(sweep: Path) -> list[dict[str, Any]]:
    """Train every variant of every trial, one process a CPU; return scores and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = requests_of(sweep, Path(folder))
        processes = ProcessPoolExecutor(usable_cpus(), get_context("spawn"), _prepare)
        with processes as pool:
            results = list(pool.map(_train, wanted.values()))
    return [
        {
            "task": group.task,
            "sparsity": group.sparsity,
            "seed": seed,
            "variant": variant,
            "select": result.primary("select"),
            "report": result.primary("report"),
            "dtype": result.numerics.dtype,
            "train_s": result.seconds["train"],
        }
        for (group, seed, variant), result in zip(wanted, results, strict=True)
    ]


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each task, sparsity and variant: interval, and whether it is inside."""
    scores: dict[tuple[Group, str], dict[int, float]] = defaultdict(dict)
    for row in rows:
        scores[Group(row["task"], row["sparsity"]), row["variant"]][row["seed"]] = row["select"]
    found = []
    for (group, variant), by_seed in scores.items():
        if variant == REFERENCE:
            continue
        base = scores[group, REFERENCE]
        differences = [by_seed[seed] - base[seed] for seed in sorted(by_seed)]
        low, high = t_interval(differences, CONFIDENCE)
        found.append(
            {
                "task": group.task,
                "sparsity": group.sparsity,
                "variant": variant,
                "num_seeds": len(differences),
                "reference_mean": sum(base[seed] for seed in by_seed) / len(by_seed),
                "mean_difference": sum(differences) / len(differences),
                "low": low,
                "high": high,
                "is_equivalent": low > -DELTA and high < DELTA,
            }
        )
    return found


def _prepare() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    connect(RankEnv(master_port=port))


def _train(request: TrialRequest) -> TrialResult:
    return _RUN(request, SilentReporter())


_RUN = WarmTrials()  # of each process


def main(sweep: Path, place: Path) -> None:
    """Train, compare, write and print."""
    machine = Machine()
    rows = run_fresh(RANK, train_all, sweep)
    found: dict[str, Any] = {
        "delta": DELTA,
        "confidence": CONFIDENCE,
        "reference": REFERENCE,
        "machine": machine.facts(),
        "comparisons": compare(rows),
        "trials": rows,
    }
    place.write_text(json.dumps(found, indent=1) + "\n")
    for row in found["comparisons"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
