"""Tells the cluster's metrics how a sweep gets on, every few seconds."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from orchestrator.listeners import SilentListener, SweepOutcome
from search_spaces.contracts import Failed, Progress, TrialResult, TrialState
from search_spaces.trial import Trial

SHOW_S = 5.0  # between two looks; Prometheus reads every 10 s or less often
WAITING = "waiting for resources"
_NUM_SPEEDS = 50  # newest results that the speed is taken over


class Metrics(Protocol):
    """What ``cluster.metrics.SweepMetrics`` offers."""

    def states(self, counts: Mapping[str, int]) -> None:
        """Show trials by state."""

    def running(self, counts: Mapping[str, int]) -> None:
        """Show running attempts by kind."""

    def tokens_per_s(self, value: float) -> None:
        """Show the speed of training."""

    def waiting_s(self, value: float) -> None:
        """Show the longest wait for resources."""

    def mirror_lag(self, number: int) -> None:
        """Show how far MLflow is behind."""

    def retry(self, failure: str) -> None:
        """Count a retry."""


class MetricsListener(SilentListener):
    """Gathers what the metrics show.

    Args:
        metrics: Where it is shown.
        trials: All trials of the sweep.
        counts: Asked for the trials by state.
        lag: Asked how many results MLflow lacks.
        clock: Seconds, from any moment on.
    """

    def __init__(
        self,
        metrics: Metrics,
        trials: Iterable[Trial],
        counts: Callable[[], Mapping[TrialState, int]],
        lag: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics, self._counts, self._lag, self._clock = metrics, counts, lag, clock
        self._kinds = {trial.key: trial.main_role.kind for trial in trials}
        self._all_kinds = sorted(set(self._kinds.values()))
        self._speeds: deque[tuple[int, float]] = deque(maxlen=_NUM_SPEEDS)
        self._waiting_since: dict[str, float] = {}
        self._next = 0.0

    def succeeded(self, trial: Trial, result: TrialResult) -> None:
        """Learn how fast training is."""
        self._speeds.append((result.num_train_tokens, result.seconds["train"]))

    def failed(self, trial: Trial, failed: Failed, will_retry: bool) -> None:
        """Count what is tried again."""
        if will_retry:
            self._metrics.retry(failed.failure.value)

    def progress(self, progress: list[Progress]) -> None:
        """Show all numbers, if it is time."""
        now = self._clock()
        waiting = {one.trial_key for one in progress if one.phase == WAITING}
        known = self._waiting_since
        self._waiting_since = {key: known.get(key, now) for key in waiting}
        if now < self._next:
            return
        self._next = now + SHOW_S
        self._show(progress, now)

    def finished(self, outcome: SweepOutcome) -> None:
        """Show the end: nothing runs any more."""
        self._waiting_since = {}
        self._show([], self._clock())

    def _show(self, progress: list[Progress], now: float) -> None:
        known = {state.value: 0 for state in TrialState}
        self._metrics.states(known | {s.value: num for s, num in self._counts().items()})
        running = Counter(self._kinds.get(one.trial_key, "") for one in progress)
        self._metrics.running({kind: running[kind] for kind in self._all_kinds})
        train_s = sum(seconds for _, seconds in self._speeds)
        if train_s:
            self._metrics.tokens_per_s(sum(num for num, _ in self._speeds) / train_s)
        since = min(self._waiting_since.values(), default=now)
        self._metrics.waiting_s(now - since)
        self._metrics.mirror_lag(self._lag())
