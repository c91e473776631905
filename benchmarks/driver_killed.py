"""The driver is killed (SIGKILL) in the middle of a search and started anew: what runs again?

Ours goes on from journal and store. Ray Tune goes on by ``Tuner.restore`` from its last snapshot,
which it takes every ten seconds or less often. Both drivers are processes of their own, which join
one Ray that outlives them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ray

from benchmarks.diary import Diary, Interval
from benchmarks.machine import ROOT
from benchmarks.measure import OURS, Case, Goal, Report, Sample, interleave
from benchmarks.sleeping import Search, run_ours, run_tune
from cluster.session import Session

TUNE = "Ray Tune"
SEARCHES = {
    "full": Search(num_lineages=10, num_rounds=10, trial_s=1.0, num_slots=4),
    "quick": Search(num_lineages=4, num_rounds=6, trial_s=0.5, num_slots=2),
    "smoke": Search(num_lineages=3, num_rounds=3, trial_s=0.4, num_slots=2),
}
LIMIT_S = 150.0  # for each of the two drivers


def run(smoke: bool, quick: bool = False) -> Report:
    """Kill each driver once."""
    size = "smoke" if smoke else "quick" if quick else "full"
    search = SEARCHES[size]
    counts: dict[str, str] = {}
    with Session(num_cpus=search.num_slots):
        variants: dict[str, Callable[[int], Sample]] = {
            name: partial(_measured, name, size, counts) for name in (TUNE, OURS)
        }
        samples = interleave(variants, num_rounds=1, num_warmups=0)
    most = search.num_trials + search.num_slots
    goal = Goal("num_runs", most, meaning="nothing runs again but what was in flight")
    return Report(
        variants={
            TUNE: "as in `graph_overhead`; then `Tuner.restore` and `fit`",
            OURS: "`run_sweep`; then the same call again, on the same journal and store",
        },
        settings={
            "graph": f"{search.num_lineages} lineages of {search.num_rounds} rounds; for Tune "
            f"{search.num_trials} trials without parents",
            "trial": f"{search.trial_s:g} s, asleep; {search.num_slots} at once",
            "killed": f"half a trial after {killed_after(search)} trials had ended, once each; how "
            "old Tune's snapshot then is, is chance",
            "num_runs": "how often a trial was begun, before and after",
            "resume_s": "from the second driver's start, imports included, to its first trial",
        },
        cases=(Case(f"{search.num_trials} trials", samples, tuple(counts.values()), (goal,)),),
    )


def killed_after(search: Search) -> int:
    """Return after how many ended trials the driver is killed."""
    return search.num_trials * 6 // 10


def recovered(intervals: list[Interval], killed_s: float) -> dict[str, int]:
    """Return how the runs of trials lie about the kill.

    Returns:
        ``runs``: all; ``ended``: trials that had ended when the driver was killed; ``in_flight``:
        that had begun and not ended; ``again``: of ``ended`` those that were run again.
    """
    before = [one for one in intervals if one.begin_s < killed_s]
    ended = {one.name for one in before if one.end_s is not None and one.end_s < killed_s}
    later = Counter(one.name for one in intervals if one.begin_s >= killed_s)
    return {
        "runs": len(intervals),
        "ended": len(ended),
        "in_flight": len({one.name for one in before} - ended),
        "again": sum(name in later for name in ended),
    }


def drive(name: str, size: str, folder: str) -> None:
    """Be the driver: join the Ray of ``RAY_ADDRESS``, and go on with what is in the folder."""
    search, place = SEARCHES[size], Path(folder)
    diary, is_resumed = Diary(str(place / "diary")), (place / "killed").exists()
    with Session() as session:
        if name == OURS:
            run_ours(search, session, place, diary.path)
        else:
            run_tune(search, place, diary.path, restore=is_resumed)


def _measured(name: str, size: str, counts: dict[str, str], _number: int) -> Sample:
    search = SEARCHES[size]
    with tempfile.TemporaryDirectory() as folder:
        diary, errors = Diary(f"{folder}/diary"), Path(folder) / "errors"
        first = _start(name, size, folder)
        _wait_until(
            first, errors, lambda: _num_ended(diary) >= killed_after(search), search.trial_s / 2
        )
        first.kill()
        killed_s = time.perf_counter()
        first.wait()
        (Path(folder) / "killed").touch()
        again_s = time.perf_counter()
        second = _start(name, size, folder)
        _wait_until(second, errors, lambda: second.poll() is not None, 0.0)
        intervals = diary.intervals()
    found = recovered(intervals, killed_s)
    assert {one.name for one in intervals if one.end_s} >= {one.name for one in intervals}
    counts[name] = (
        f"{name}: {found['ended']} trials had ended when the driver was killed, and "
        f"{found['again']} of them ran again; {found['in_flight']} were in flight."
    )
    resumed_s = min(one.begin_s for one in intervals if one.begin_s > killed_s) - again_s
    return {"num_runs": found["runs"], "resume_s": resumed_s}


def _start(name: str, size: str, folder: str) -> subprocess.Popen[bytes]:
    address = str(ray.get_runtime_context().gcs_address)
    environment = {"RAY_AUTH_MODE": "token", **os.environ, "RAY_ADDRESS": address}
    command = [sys.executable, "-m", "benchmarks.driver_killed", name, size, folder]
    with (Path(folder) / "errors").open("wb") as errors:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )


def _wait_until(
    process: subprocess.Popen[bytes], errors: Path, is_done: Callable[[], bool], then_s: float
) -> None:
    """Wait for something that a driver does, and a little longer; end it where it never comes."""
    until_s = time.monotonic() + LIMIT_S
    while not is_done():
        code = process.poll()
        if time.monotonic() > until_s or (code is not None and not is_done()):
            process.kill()
            process.wait()
            raise RuntimeError(f"A driver did not get there: {errors.read_text()[-2000:]}")
        time.sleep(0.02)
    if process.poll():
        raise RuntimeError(f"A driver failed: {errors.read_text()[-2000:]}")
    time.sleep(then_s)


def _num_ended(diary: Diary) -> int:
    return sum(one.end_s is not None for one in diary.intervals())


if __name__ == "__main__":
    drive(*sys.argv[1:])
