"""Vitals: what the driver tells the journal of a run beside its trials' states.

How far the running attempts are, how fast training is and how long the rest will take by the
cost model: replaced as a whole with every heartbeat, so that it never grows.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict, deque
from typing import Any

from orchestrator.costs import ComputeFor, Speed, SpeedClass, estimate, measure, num_devices
from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal
from orchestrator.listeners import Listener
from orchestrator.scheduler import Scheduler
from search_spaces.contracts import Executor, Progress, TrialResult

NUM_SPEEDS = 50  # newest results of a speed class that its speed is the median of
PROGRESS_S = 0.5  # between two looks at the running attempts
HEARTBEAT_S = 5.0
OUTLOOK_S = 15.0  # between two looks at all open trials
MAX_SHARE = 0.01  # of the driver's time; a sweep of 100,000 trials is looked at more rarely


class Vitals:
    """Gathers what there is to tell of a run.

    Attributes:
        store_away_since: Since when the store does not answer, in seconds since the epoch; None
            while it does.
    """

    def __init__(
        self,
        graph: TrialGraph,
        scheduler: Scheduler,
        executor: Executor,
        compute_for: ComputeFor,
    ) -> None:
        """Begin with nothing known; ``compute_for`` says what a trial runs on."""
        self._compute_for = compute_for
        self.store_away_since: float | None = None
        self._graph, self._scheduler, self._executor = graph, scheduler, executor
        self._speeds: dict[SpeedClass, deque[Speed]] = defaultdict(lambda: deque(maxlen=NUM_SPEEDS))
        self._num_tokens = 0
        self._train_s = 0.0
        self._eta_s: float | None = None
        self._next_outlook = 0.0

    def note(self, key: str, result: TrialResult) -> None:
        """Learn from a result, new or reused, how fast trials of its class are."""
        for where, speed in measure([(self._graph[key].spec, result)]).items():
            self._speeds[where].append(speed)
            self._num_tokens += result.num_train_tokens
            self._train_s += result.seconds["train"]

    def now(self, now: float) -> dict[str, Any]:
        """Return the newest vitals as plain data.

        ``eta_s`` is the larger of all open work over the slots and the longest open chain, None
        while the executor has no slot; ``tokens_per_s`` is of one slot, over all results.
        """
        running = self._executor.progress()
        if now >= self._next_outlook:
            begin_s = time.perf_counter()
            self._eta_s = self._outlook({one.trial_key: one for one in running})
            took_s = time.perf_counter() - begin_s
            self._next_outlook = now + max(OUTLOOK_S, took_s / MAX_SHARE)
        return {
            "running": [one.model_dump() for one in running],
            "num_slots": self._executor.num_slots,
            "where": self._executor.description,
            "tokens_per_s": self._num_tokens / self._train_s if self._train_s else None,
            "eta_s": self._eta_s,
            "is_measured": bool(self._speeds),
            "store_away_since": self.store_away_since,
        }

    def _outlook(self, running: dict[str, Progress]) -> float | None:
        """Return the estimated seconds until the last trial ends, were none to fail."""
        speeds = {where: _median(list(found)) for where, found in self._speeds.items()}
        chains: dict[str, float] = {}
        total_s, narrowest = 0.0, math.inf
        for key in reversed(self._graph.topological_order()):
            compute = self._compute_for(self._graph[key])
            narrowest = min(narrowest, num_devices(compute))
            if not self._scheduler.state(key).is_finished:
                seconds = estimate(self._graph[key].spec, compute, speeds).seconds
                seconds *= 1 - _share_done(running.get(key))
                below_s = max((chains.get(c, 0.0) for c in self._graph.children(key)), default=0.0)
                chains[key] = seconds + below_s
                total_s += seconds * num_devices(compute)
        if not self._executor.num_slots:
            return None
        total_s /= narrowest * self._executor.num_slots
        return max(total_s, max(chains.values(), default=0.0))


class LifeSigns:
    """Tells the listener and, less often, the journal that the run lives and how it gets on."""

    def __init__(
        self, vitals: Vitals, executor: Executor, journal: Journal, listener: Listener
    ) -> None:
        self._vitals, self._executor = vitals, executor
        self._journal, self._listener = journal, listener
        self._next_progress = self._next_heartbeat = 0.0

    def show(self, now: float) -> None:
        """Give the signs that are due."""
        if now >= self._next_progress:
            self._next_progress = now + PROGRESS_S
            self._listener.progress(self._executor.progress())
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_S
            self._journal.show_life(self._vitals.now(now), now)


def _median(speeds: list[Speed]) -> Speed:
    step_s = statistics.median(speed.step_s for speed in speeds)
    overhead_s = statistics.median(speed.overhead_s for speed in speeds)
    return Speed(step_s, overhead_s, len(speeds))


def _share_done(progress: Progress | None) -> float:
    return min(1.0, progress.step / progress.num_steps) if progress and progress.num_steps else 0.0
