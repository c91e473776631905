"""From a parent's end to its child's beginning in a warm process: ours, and a loop by hand.

There are as many lineages as slots, so that a child never waits for a slot: what is left is the
way of a result to the driver, its commit, and the way of the next request. The loop by hand keeps
nothing: an actor for each lineage, `ray.wait`, and a call with the next round's number.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import ray

from benchmarks.diary import Diary, Interval, percentile
from benchmarks.measure import OURS, Case, Goal, Report, Sample, interleave
from benchmarks.sleeping import Search, run_ours, sleep_and_write
from cluster.session import Session

BY_HAND = "loop by hand"
MASKS = {"64 KiB": 1 << 16, "10.7 MB, as of BERT-base": 10_690_560}
NUM_SLOTS, TRIAL_S = 2, 0.3
SMOKE_ROUNDS, QUICK_ROUNDS, FULL_ROUNDS = 4, 10, 50
NUM_DROPPED = 2  # hand-overs of each lineage at its beginning: processes load what they need


def run(smoke: bool, quick: bool = False) -> Report:
    """Run two lineages by each, with a small and a large mask."""
    num_rounds = SMOKE_ROUNDS if smoke else QUICK_ROUNDS if quick else FULL_ROUNDS
    with Session(num_cpus=NUM_SLOTS) as session:
        cases = tuple(
            Case(
                f"a mask of {name}",
                measure(Search(NUM_SLOTS, num_rounds, TRIAL_S, NUM_SLOTS, num_bytes), session),
                (),
                (Goal("p50_ms", 50.0),),
            )
            for name, num_bytes in list(MASKS.items())[: 1 if smoke or quick else None]
        )
    return Report(
        variants={
            BY_HAND: "an actor for each lineage and `ray.wait`; no store, no journal, no states",
            OURS: "`run_sweep`: the mask's sha256 is checked, the result committed, two "
            "transitions journaled, each flushed to the disk, and the child asked for",
        },
        settings={
            "graph": f"{NUM_SLOTS} lineages of {num_rounds} rounds on {NUM_SLOTS} slots",
            "trial": f"{TRIAL_S:g} s asleep; its mask is written and flushed within it",
            "counted": "from the parent's last line to the child's first, on one clock, without "
            f"the first {NUM_DROPPED} of each lineage",
            "rounds": "1",
        },
        cases=cases,
    )


def measure(search: Search, session: Session) -> dict[str, list[Sample]]:
    """Return how long children waited."""
    ours = {trial.key: trial.spec.parents[0] for trial in search.trials() if trial.spec.parents}
    by_hand = {
        _name(seed, index): _name(seed, index - 1)
        for seed in range(search.num_lineages)
        for index in range(1, search.num_rounds)
    }
    variants: dict[str, Callable[[int], Sample]] = {
        BY_HAND: lambda _: _measured(partial(run_by_hand, search), by_hand),
        OURS: lambda _: _measured(partial(run_ours, search, session), ours),
    }
    return interleave(variants, num_rounds=1, num_warmups=0)


def run_by_hand(search: Search, folder: Path, diary: str) -> None:
    """Run a search's lineages, each on an actor of its own."""
    actors = [ray.remote(num_cpus=1)(_Actor).remote() for _ in range(search.num_lineages)]
    nexts = dict.fromkeys(range(search.num_lineages), 0)
    running: dict[ray.ObjectRef, int] = {}

    def start(seed: int) -> None:
        name = _name(seed, nexts[seed])
        place = str(folder / name.replace("/", "-"))
        reference = actors[seed].run.remote(
            diary, name, place, search.trial_s, search.mask_bytes, search.num_slots
        )
        running[reference] = seed
        nexts[seed] += 1

    for seed in nexts:
        start(seed)
    while running:
        (ended,), _ = ray.wait(list(running), num_returns=1)
        ray.get(ended)
        seed = running.pop(ended)
        if nexts[seed] < search.num_rounds:
            start(seed)
    for actor in actors:
        ray.kill(actor)


def waits(intervals: Iterable[Interval], parents: Mapping[str, str]) -> list[float]:
    """Return the seconds from each parent's end to its child's beginning, in order of the latter.

    Args:
        intervals: Runs in the order of their beginnings; each trial once.
        parents: The parent of each trial that has one.
    """
    runs = list(intervals)
    ends = {one.name: one.end_s for one in runs}
    found: list[float] = []
    for one in runs:
        end_s = ends[parents[one.name]] if one.name in parents else None
        if end_s is not None:
            found.append(one.begin_s - end_s)
    return found


class _Actor:
    """A warm process."""

    run = staticmethod(sleep_and_write)


def _measured(work: Callable[[Path, str], object], parents: Mapping[str, str]) -> Sample:
    with tempfile.TemporaryDirectory() as folder:
        diary = Diary(str(Path(folder) / "diary"))
        work(Path(folder), diary.path)
        found = waits(diary.intervals(), parents)
    assert len(found) == len(parents), f"{len(found)} of {len(parents)} children were seen"
    counted = found[NUM_DROPPED * NUM_SLOTS :]
    return {f"p{p}_ms": 1e3 * percentile(counted, p / 100) for p in (50, 90, 99)}


def _name(seed: int, index: int) -> str:
    return f"{seed}/{index}"
