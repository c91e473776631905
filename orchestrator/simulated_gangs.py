"""Which gang size each trial gets, so that the critical path does not outlast the work."""

from __future__ import annotations

import math
from collections.abc import Mapping

from orchestrator.graph import TrialGraph
from orchestrator.simulated_figures import critical_path


def gang_sizes(
    graph: TrialGraph, seconds: Mapping[str, Mapping[int, float]], num_gpus: int
) -> dict[str, int]:
    """Return the GPUs of each trial: the smallest size, and more on the critical path.

    As long as the longest chain outlasts all work spread over all GPUs, one trial on it gets the
    size that saves the most seconds for each GPU-second that it costs.

    Args:
        graph: All trials.
        seconds: How long each trial takes, by gang size; a trial that is absent has its result.
        num_gpus: GPUs of the cluster.

    Returns:
        A size for each trial of ``seconds``.
    """
    sizes = {key: min(by_size) for key, by_size in seconds.items()}
    now = {key: seconds[key][size] for key, size in sizes.items()}
    work_s = sum(sizes[key] * now[key] for key in now)
    while True:
        chain_s, chain = critical_path(graph, now)
        if chain_s <= work_s / num_gpus:
            return sizes
        steps = [
            (_worth(seconds[key], sizes[key], size), key, size)
            for key in chain
            for size in seconds[key]
            if sizes[key] < size <= num_gpus and seconds[key][size] < now[key]
        ]
        if not steps:
            return sizes
        _, key, size = max(steps)
        work_s += size * seconds[key][size] - sizes[key] * now[key]
        sizes[key], now[key] = size, seconds[key][size]


def _worth(by_size: Mapping[int, float], old: int, new: int) -> float:
    """Return the seconds saved for each GPU-second that the larger gang costs."""
    extra = new * by_size[new] - old * by_size[old]
    return (by_size[old] - by_size[new]) / extra if extra > 0 else math.inf
