"""Where our own time goes, for the facts beside a measurement: shares, not seconds."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

NUM_SHOWN = 8


def operations(work: Callable[[], object]) -> str:
    """Do the work once under torch's profiler; tell which operations took the CPU's time."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    seconds = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    return _told(seconds, "Profile of ours (torch.profiler, share of own CPU time)")


def functions(work: Callable[[], object]) -> str:
    """Do the work once under cProfile; tell which functions took the time."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    seconds: dict[str, float] = {}
    for (file, _, name), (_, _, own, _, _) in stats.items():
        place = name if file == "~" else f"{Path(file).stem}:{name}"
        seconds[place] = seconds.get(place, 0.0) + own
    return _told(seconds, "Profile of ours (cProfile, share of own time)")


def _told(seconds: dict[str, float], title: str) -> str:
    total = sum(seconds.values())
    shown = sorted(seconds.items(), key=lambda item: -item[1])[:NUM_SHOWN]
    return f"{title}: " + ", ".join(f"`{name}` {own / total:.0%}" for name, own in shown) + "."
