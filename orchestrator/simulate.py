"""How long a sweep would take: the real scheduler on a simulated clock, without failures."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from orchestrator.graph import TrialGraph
from orchestrator.scheduler import Scheduler


def simulate_wall_s(graph: TrialGraph, seconds: Mapping[str, float], num_slots: int) -> float:
    """Return the seconds until the last trial ends.

    Args:
        graph: All trials.
        seconds: How long each trial takes; a trial that is absent has its result already.
        num_slots: Number of trials that run at once.

    Raises:
        ValueError: When there is no slot.
    """
    if num_slots < 1:
        raise ValueError(f"num_slots is {num_slots}, but must be at least 1.")
    scheduler = Scheduler(graph)
    for key in graph:
        if key not in seconds:
            scheduler.reuse(key)
    now = 0.0
    running: list[tuple[float, str]] = []
    while not scheduler.is_finished:
        for key in scheduler.ready(now, num_slots - len(running)):
            scheduler.start(key, "simulated")
            heapq.heappush(running, (now + seconds[key], key))
        now, key = heapq.heappop(running)
        scheduler.succeed(key)
    return now
