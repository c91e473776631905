"""What orchestrating 200 trials of one second costs on real Ray: ours against Ray Tune.

Ours runs lineages of pruning rounds, each waiting for the mask of the one before, with the real
driver, scheduler, journal and store, every step durable. Tune, which knows no dependencies, runs as
many independent trials with ``reuse_actors=True`` and as many at once as there are slots. Both
start their processes anew; the first trials wait until every slot has its process (Tune would else
run short trials in one), and what counts begins then.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.diary import Diary, Interval, percentile
from benchmarks.measure import OURS, Case, Goal, Report, Sample, interleave
from benchmarks.sleeping import Search, run_ours, run_tune
from cluster.session import Session

TUNE = "Ray Tune"
FULL = Search(num_lineages=20, num_rounds=10, trial_s=1.0, num_slots=4)
QUICK = Search(num_lineages=8, num_rounds=5, trial_s=0.5, num_slots=4)
SMOKE = Search(num_lineages=2, num_rounds=3, trial_s=0.1, num_slots=2)
MEANING = "wall over the larger of all work over the slots and the longest chain"


def run(smoke: bool, quick: bool = False) -> Report:
    """Run the search once with each, on one Ray."""
    search = SMOKE if smoke else QUICK if quick else FULL
    samples = measure(search)
    goals = (
        Goal("overhead_percent", 5.0, meaning=MEANING),
        Goal("overhead_percent", 1.0, TUNE, meaning="not above Tune's"),
        Goal("gap_p50_ms", 50.0),
    )
    return Report(
        variants={
            TUNE: "`Tuner` with `reuse_actors=True`, `max_concurrent_trials` = slots, a function "
            "as trainable, its result loggers off; independent trials; a snapshot every ten "
            "seconds or less often",
            OURS: "`run_sweep` on warm gangs of one rank: each result committed to the store, each "
            "transition in the journal, each flushed to the disk before the next trial starts",
        },
        settings={
            "graph": f"{search.num_lineages} lineages of {search.num_rounds} rounds; for Tune "
            f"{search.num_trials} trials without parents",
            "trial": f"{search.trial_s:g} s in its process, asleep; ours writes a mask of "
            f"{search.mask_bytes / 1024:.0f} KiB within it",
            "slots": str(search.num_slots),
            "counted": "from when every slot has its process and trial until the last one ends, "
            "over the trials' own seconds from there on; `start_s` is what came before",
            "gap": "within a process, from a trial's end to the next one's beginning",
            "rounds": "1",
        },
        cases=(Case(f"{search.num_trials} trials", samples, (_told(samples),), goals),),
    )


def measure(search: Search) -> dict[str, list[Sample]]:
    """Return what each costs."""
    with Session(num_cpus=search.num_slots) as session:
        variants: dict[str, Callable[[int], Sample]] = {
            TUNE: lambda _: _measured(search, partial(run_tune, search)),
            OURS: lambda _: _measured(search, partial(run_ours, search, session)),
        }
        return interleave(variants, num_rounds=1, num_warmups=0)


def costs(intervals: Sequence[Interval], called_s: float, num_slots: int) -> Sample:
    """Return what lies between the trials, by their own log.

    Args:
        intervals: All runs of trials, ended.
        called_s: When the search was asked for.
        num_slots: Trials at once. Where fewer processes ever ran, the first trial's beginning
            counts as the start.
    """
    by_process: dict[int, list[Interval]] = defaultdict(list)
    for one in intervals:
        by_process[one.pid].append(one)
    firsts = sorted(own[0].begin_s for own in by_process.values())
    since_s = firsts[num_slots - 1] if len(firsts) >= num_slots else firsts[0]
    wall_s = max(_end(one) for one in intervals) - since_s
    work_s = sum(max(0.0, _end(one) - max(one.begin_s, since_s)) for one in intervals)
    pairs = (pair for own in by_process.values() for pair in pairwise(own))
    gaps = [after.begin_s - _end(before) for before, after in pairs]
    return {
        "overhead_percent": 100 * (wall_s * num_slots / work_s - 1),
        "wall_s": wall_s,
        "start_s": since_s - called_s,
        "gap_p50_ms": 1e3 * percentile(gaps, 0.5),
        "gap_p99_ms": 1e3 * percentile(gaps, 0.99),
        "num_processes": len(by_process),
    }


def _end(one: Interval) -> float:
    assert one.end_s is not None, f"trial {one.name} began and never ended"
    return one.end_s


def _measured(search: Search, work: Callable[[Path, str], object]) -> Sample:
    with tempfile.TemporaryDirectory() as folder:
        diary, called_s = Diary(str(Path(folder) / "diary")), time.perf_counter()
        work(Path(folder), diary.path)
        intervals = diary.intervals()
    num_names = len({one.name for one in intervals})
    assert num_names == len(intervals) == search.num_trials, f"{num_names} trials ran"
    return costs(intervals, called_s, search.num_slots)


def _told(samples: dict[str, list[Sample]]) -> str:
    starts = ", ".join(f"{name} {rounds[0]['start_s']:.1f} s" for name, rounds in samples.items())
    return f"Until every slot had its process, not counted above: {starts}."
