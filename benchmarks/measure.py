"""Measure variants in turn, each round all of them, and say how their numbers spread."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from cluster.resources import rank_environment
from search_spaces.contracts import Compute

OURS = "ours"
Sample = Mapping[str, float]  # one round of one variant: quantity, with its unit -> value
T = TypeVar("T")

# One rank with one thread, as the workers run, and the same with glibc's own memory settings.
RANK = rank_environment(Compute(num_threads=1))
PLAIN = {name: value for name, value in RANK.items() if not name.startswith("MALLOC_")}


@dataclass(frozen=True)
class Case:
    """What was measured at one setting.

    Attributes:
        name: The setting, for example a model.
        samples: One sample for each round, by variant; round i saw the same work in all of them.
        facts: What was counted or checked beside, in sentences.
    """

    name: str
    samples: Mapping[str, Sequence[Sample]]
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes:
        variants: What each variant does, by name; one of them is ``OURS``.
        settings: What held for all of them.
        cases: The measurements.
    """

    variants: Mapping[str, str]
    settings: Mapping[str, str]
    cases: tuple[Case, ...]


def timed(work: Callable[[], T]) -> tuple[T, Sample]:
    """Return what ``work`` returns, and its wall and process CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    return value, {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def interleave(
    variants: Mapping[str, Callable[[int], Sample]], num_rounds: int, num_warmups: int = 1
) -> dict[str, list[Sample]]:
    """Run all variants once a round, each round in another order.

    What disturbs the machine for a while then meets every variant, and none is always first.

    Args:
        variants: Given the round's number, does its work and returns its sample.
        num_rounds: Rounds that count.
        num_warmups: Rounds before them whose samples are dropped.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(num_warmups + num_rounds):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            sample = variants[name](number)
            if number >= num_warmups:
                samples[name].append(sample)
    return samples


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles; a single value is all three."""
    if len(values) == 1:
        return {"median": values[0], "q1": values[0], "q3": values[0]}
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def summary(case: Case) -> dict[str, Any]:
    """Return a case as JSON: spreads of each quantity, and of the ratios peer / ours.

    A ratio is taken within each round, between variants that did the same work.
    """
    quantities: dict[str, Any] = {}
    for quantity in case.samples[OURS][0]:
        values = {name: [s[quantity] for s in rounds] for name, rounds in case.samples.items()}
        ratios = {
            name: spread([theirs / own for theirs, own in zip(v, values[OURS], strict=True)])
            for name, v in values.items()
            if name != OURS
        }
        spreads = {name: {**spread(v), "values": v} for name, v in values.items()}
        quantities[quantity] = {"variants": spreads, "ratios": ratios}
    return {"name": case.name, "facts": list(case.facts), "quantities": quantities}


def run_fresh(environment: Mapping[str, str], function: Callable[..., T], *arguments: Any) -> T:
    """Return what a function returns in a process of its own, started with these variables.

    Args:
        environment: Set before the process starts: libraries read them when they are imported.
        function: Of a module's top level.
        arguments: Its arguments; as its value, they are pickled.
    """
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
            return pool.submit(function, *arguments).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_module(name: str, smoke: bool) -> Report:
    """Run one benchmark in this process."""
    report: Report = importlib.import_module(f"benchmarks.{name}").run(smoke)
    return report
