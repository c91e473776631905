"""Who is told how a sweep gets on: progress display, MLflow mirror."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.retries import Cause
from search_spaces.contracts import Failed, Progress, TrialResult, TrialState
from search_spaces.trial import Trial

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepOutcome:
    """How a sweep ended.

    Attributes:
        counts: Number of trials in every state.
        failures: Why each FAILED trial failed, by key.
        cancelled: Whether somebody interrupted it; all that was committed stays.
    """

    counts: dict[TrialState, int]
    failures: dict[str, Cause]
    cancelled: bool

    @property
    def succeeded(self) -> bool:
        """Whether every trial succeeded or was skipped by a policy."""
        fine = self.counts[TrialState.SUCCEEDED] + self.counts[TrialState.SKIPPED]
        return fine == sum(self.counts.values())

    @property
    def has_failures(self) -> bool:
        """Whether any trial failed for good or waits for one that did; a cancelled one did not."""
        return any(self.counts.get(one) for one in (TrialState.FAILED, TrialState.BLOCKED))


class Listener(Protocol):
    """Told of every change after it is durable.

    Calls come from the loop that drives the sweep: they must return at once (enqueue) and must
    not raise.
    """

    def started(self, trial: Trial, attempt: str) -> None:
        """An attempt was handed to the executor."""

    def succeeded(self, trial: Trial, result: TrialResult) -> None:
        """A trial's result is committed; it may be another sweep's that was quicker."""

    def reused(self, trial: Trial, result: TrialResult) -> None:
        """The store held the result already."""

    def failed(self, trial: Trial, failed: Failed, will_retry: bool) -> None:
        """An attempt failed."""

    def blocked(self, trial: Trial, cause: Cause) -> None:
        """A trial cannot run, because an ancestor failed for good."""

    def progress(self, progress: list[Progress]) -> None:
        """How far the running attempts are, about twice a second."""

    def steered(self, text: str) -> None:
        """Somebody has paused, resumed, cut or stopped the sweep; the text is for people."""

    def finished(self, outcome: SweepOutcome) -> None:
        """The sweep has ended."""


class SilentListener:
    """Tells nobody; a base for listeners that want only some of the calls."""

    def started(self, trial: Trial, attempt: str) -> None:
        """Do nothing."""

    def succeeded(self, trial: Trial, result: TrialResult) -> None:
        """Do nothing."""

    def reused(self, trial: Trial, result: TrialResult) -> None:
        """Do nothing."""

    def failed(self, trial: Trial, failed: Failed, will_retry: bool) -> None:
        """Do nothing."""

    def blocked(self, trial: Trial, cause: Cause) -> None:
        """Do nothing."""

    def progress(self, progress: list[Progress]) -> None:
        """Do nothing."""

    def steered(self, text: str) -> None:
        """Do nothing."""

    def finished(self, outcome: SweepOutcome) -> None:
        """Do nothing."""


class ListenerGroup:
    """Tells several listeners, in their order.

    One that raises is told nothing any more: a display that breaks must not end a sweep.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = list(listeners)

    def started(self, trial: Trial, attempt: str) -> None:
        """Tell all."""
        self._tell("started", trial, attempt)

    def succeeded(self, trial: Trial, result: TrialResult) -> None:
        """Tell all."""
        self._tell("succeeded", trial, result)

    def reused(self, trial: Trial, result: TrialResult) -> None:
        """Tell all."""
        self._tell("reused", trial, result)

    def failed(self, trial: Trial, failed: Failed, will_retry: bool) -> None:
        """Tell all."""
        self._tell("failed", trial, failed, will_retry)

    def blocked(self, trial: Trial, cause: Cause) -> None:
        """Tell all."""
        self._tell("blocked", trial, cause)

    def progress(self, progress: list[Progress]) -> None:
        """Tell all."""
        self._tell("progress", progress)

    def steered(self, text: str) -> None:
        """Tell all."""
        self._tell("steered", text)

    def finished(self, outcome: SweepOutcome) -> None:
        """Tell all."""
        self._tell("finished", outcome)

    def _tell(self, what: str, *arguments: object) -> None:
        for listener in tuple(self._listeners):
            try:
                getattr(listener, what)(*arguments)
            except Exception:
                _LOG.exception("%s broke; the sweep goes on without it", type(listener).__name__)
                self._listeners.remove(listener)
