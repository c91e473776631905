"""Measure variants in turn, each round all of them, and say how their numbers spread."""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from cluster.resources import rank_environment
from search_spaces.contracts import Compute

OURS = "ours"
Sample = Mapping[str, float]  # one round of one variant: quantity, with its unit -> value
Scale = Literal["full", "quick", "smoke"]  # of a real run, of a first look, of a test
T = TypeVar("T")

# One rank with one thread, as the workers run, and the same with glibc's own memory settings.
RANK = rank_environment(Compute(num_threads=1))
PLAIN = {name: value for name, value in RANK.items() if not name.startswith("MALLOC_")}


@dataclass(frozen=True)
class Goal:
    """What a ratio, or a value of ours, is wanted to be; nothing fails by it.

    Attributes:
        quantity: Which one is judged, by its median over rounds.
        target: The ratio is to be at least this; without a peer, the value at most.
        peer: The ratio is peer / variant, taken within rounds; None = the variant's own value.
        floor: Under which the ratio is worse than was expected.
        variant: Ours.
        meaning: The target in other words.
    """

    quantity: str
    target: float
    peer: str | None = None
    floor: float | None = None
    variant: str = OURS
    meaning: str = ""


@dataclass(frozen=True)
class Case:
    """What was measured at one setting.

    Attributes:
        name: The setting, for example a model.
        samples: One sample for each round, by variant; round i saw the same work in all of them.
        facts: What was counted or checked beside, in sentences.
        goals: What was wanted of it.
    """

    name: str
    samples: Mapping[str, Sequence[Sample]]
    facts: tuple[str, ...]
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes:
        variants: What each variant does, by name; one of them is ``OURS``, others may be ours too.
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
    """Return a case as JSON: spreads of each quantity and of the ratios peer / ours, and goals.

    A ratio is taken within each round, between variants that did the same work.
    """
    quantities: dict[str, Any] = {}
    for quantity in case.samples[OURS][0]:
        values = {name: _values(case, name, quantity) for name in case.samples}
        ratios = {
            name: spread(_ratios(case, name, OURS, quantity)) for name in values if name != OURS
        }
        spreads = {name: {**spread(v), "values": v} for name, v in values.items()}
        quantities[quantity] = {"variants": spreads, "ratios": ratios}
    goals = [asdict(goal) | {"measured": _measured(case, goal)} for goal in case.goals]
    return {
        "name": case.name,
        "facts": list(case.facts),
        "goals": goals,
        "quantities": quantities,
    }


def _values(case: Case, variant: str, quantity: str) -> list[float]:
    return [sample[quantity] for sample in case.samples[variant]]


def _ratios(case: Case, peer: str, variant: str, quantity: str) -> list[float]:
    pairs = zip(_values(case, peer, quantity), _values(case, variant, quantity), strict=True)
    return [theirs / own for theirs, own in pairs]


def _measured(case: Case, goal: Goal) -> float:
    if goal.peer is None:
        return statistics.median(_values(case, goal.variant, goal.quantity))
    return statistics.median(_ratios(case, goal.peer, goal.variant, goal.quantity))


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


def run_module(name: str, scale: Scale) -> Report:
    """Run one benchmark in this process; one without a quick form runs in full instead."""
    run: Callable[..., Report] = importlib.import_module(f"benchmarks.{name}").run
    has_quick = "quick" in inspect.signature(run).parameters
    quick = {"quick": scale == "quick"} if has_quick else {}
    return run(scale == "smoke", **quick)


def per_step(seconds: Sample, num_steps: int) -> Sample:
    """Return seconds of many steps as seconds of one."""
    return {f"{quantity}_per_step": value / num_steps for quantity, value in seconds.items()}


def without(samples: Mapping[str, Sequence[Sample]], *names: str) -> dict[str, list[Sample]]:
    """Return samples without what is no cost: losses, scores, distances."""
    return {
        variant: [{k: v for k, v in sample.items() if k not in names} for sample in rounds]
        for variant, rounds in samples.items()
    }
