"""Failures as the scheduler sees them: budgets by class, back-off, causes and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from search_spaces.contracts import FailureClass

RetryBudgets = Mapping[FailureClass, int]  # retries of one trial, by the class of its failures

DEFAULT_BUDGETS: RetryBudgets = MappingProxyType(
    {
        FailureClass.DIVERGED: 1,
        FailureClass.OUT_OF_MEMORY: 1,
        FailureClass.INFRASTRUCTURE: 5,
        FailureClass.ERROR: 1,
    }
)
BACKOFF_BASE_S = 5.0  # before the first retry after an infrastructure failure; then doubled
BACKOFF_LIMIT_S = 300.0


@dataclass(frozen=True)
class Cause:
    """Why a trial did not succeed.

    Attributes:
        key: The trial in which it began: the trial itself or an ancestor.
        failure: Class of the failure; None when a policy skipped the trial.
        message: One sentence for people.
    """

    key: str
    failure: FailureClass | None
    message: str


@dataclass(frozen=True)
class Decision:
    """What follows from a failed attempt.

    Attributes:
        will_retry: Whether the trial is pending again.
        not_before: Seconds since the epoch before which it does not start again.
        blocked: Descendants that can no longer run, nearest first; empty on a retry.
    """

    will_retry: bool
    not_before: float = 0.0
    blocked: tuple[str, ...] = ()


def backoff_s(failure: FailureClass, num_failures: int) -> float:
    """Return the seconds to wait after a trial's n-th failure of one class.

    Only infrastructure is given time to recover; it does not help against any other failure.
    """
    if failure is not FailureClass.INFRASTRUCTURE:
        return 0.0
    return min(BACKOFF_LIMIT_S, BACKOFF_BASE_S * 2.0 ** (num_failures - 1))
