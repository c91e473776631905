"""What every executor does around one attempt: run it, follow it, and classify its failure."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from search_spaces.contracts import (
    Compute,
    Failed,
    FailureClass,
    Outcome,
    Progress,
    Reporter,
    Succeeded,
    TrialRequest,
    TrialResult,
)

if TYPE_CHECKING:
    from workers.ranks import RankEnv

TrialFunction = Callable[[TrialRequest, Reporter], TrialResult]
ConnectFunction = Callable[["RankEnv"], None]


@dataclass(frozen=True)
class AttemptFailure:
    """Why one process could not go on.

    Attributes:
        failure: Class of the failure.
        message: One sentence for people.
        details: Traceback, and where the process logged.
    """

    failure: FailureClass
    message: str
    details: str = ""

    @staticmethod
    def of(error: BaseException) -> AttemptFailure:
        """Describe an exception in the process that raised it."""
        from workers.failures import classify, describe

        trace = "".join(traceback.format_exception(error))
        return AttemptFailure(classify(error), describe(error), trace)


@dataclass(frozen=True)
class ProgressPoint:
    """The newest that is known of a running attempt.

    ``num_reports`` tells a trial that reports the same again from one that reports no more.
    """

    phase: str = "start"
    step: int = 0
    num_steps: int = 0
    loss: float = 0.0
    num_reports: int = 0

    def of_trial(self, trial_key: str) -> Progress:
        """Return it as the executor's callers see it."""
        return Progress(
            trial_key=trial_key,
            phase=self.phase,
            step=self.step,
            num_steps=self.num_steps,
            loss=self.loss,
        )


class LatestProgress:
    """A reporter that keeps the newest point for another thread to read."""

    def __init__(self) -> None:
        self._point = ProgressPoint()  # replaced as a whole: readers need no lock
        self._cancelled = threading.Event()

    @property
    def point(self) -> ProgressPoint:
        """The newest point."""
        return self._point

    def cancel(self) -> None:
        """Make the trial end itself with ``AttemptCancelledError`` at its next report."""
        self._cancelled.set()

    def phase(self, name: str) -> None:
        """Note that a phase begins."""
        self._check_cancelled()
        point = self._point
        self._point = replace(point, phase=name, num_reports=point.num_reports + 1)

    def step(self, step: int, num_steps: int, loss: float) -> None:
        """Note that optimizer steps have been taken."""
        self._check_cancelled()
        point = self._point
        self._point = ProgressPoint(point.phase, step, num_steps, loss, point.num_reports + 1)

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise AttemptCancelledError


class AttemptCancelledError(Exception):
    """The attempt was cancelled, or the executor closed, while it ran."""


class WarmTrials:
    """Runs trials with what this process keeps warm; loads torch at the first one."""

    def __init__(self) -> None:
        self._runner: TrialFunction | None = None

    def __call__(self, request: TrialRequest, reporter: Reporter) -> TrialResult:
        """Run a trial."""
        if self._runner is None:
            from workers.trial import TrialRunner

            self._runner = TrialRunner()
        return self._runner(request, reporter)


def run_attempt(
    function: TrialFunction, request: TrialRequest, reporter: Reporter
) -> TrialResult | AttemptFailure:
    """Run a trial and return its result, or its failure as data.

    Only data crosses process borders, because an exception of a library that the other side
    lacks could not be read there. ``SystemExit`` is let through: the process wants to end.
    """
    try:
        return function(request, reporter)
    except Exception as error:
        return AttemptFailure.of(error)


def check_gang(request: TrialRequest, compute: Compute) -> None:
    """Make sure that a request asks for the gang that there is; its micro-batch is its own.

    Raises:
        ValueError: It asks for another, which would change the numerics unseen.
    """
    if not request.compute.same_gang(compute):
        raise ValueError(
            f"The request asks for {request.compute!r}, but what runs it is {compute!r}."
        )


def connect_rank(function: ConnectFunction | None, env: RankEnv) -> None:
    """Join this process to its gang."""
    (function or _default_connect_function())(env)


def _default_connect_function() -> ConnectFunction:
    from workers.ranks import connect

    return connect


def outcome_of(request: TrialRequest, end: TrialResult | AttemptFailure) -> Outcome:
    """Return how an attempt ended, as the executor's callers see it."""
    key, attempt = request.spec.key, request.attempt
    if isinstance(end, TrialResult):
        return Succeeded(trial_key=key, attempt=attempt, result=end)
    return Failed(
        trial_key=key,
        attempt=attempt,
        failure=end.failure,
        message=end.message,
        details=end.details,
    )
