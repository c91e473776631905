"""Failures as the scheduler sees them: budgets by class, back-off, causes and what follows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from search_spaces.contracts import FailureClass
from search_spaces.run_specs import RetriesSpec

RetryBudgets = Mapping[FailureClass, int]  # retries of one trial, by the class of its failures

# Time mends these: a node comes back, the network recovers, a lock is given up. Anything else
# would fail in the same way later.
MENDED_BY_TIME = (FailureClass.PREEMPTED, FailureClass.INFRASTRUCTURE, FailureClass.HANG)
_MAX_DOUBLINGS = 60  # a preempted trial may fail a thousand times: 2.0**1024 would overflow


def budgets_of(spec: RetriesSpec) -> RetryBudgets:
    """Return the retries of each class; a user error has none."""
    return MappingProxyType(
        {
            failure: getattr(spec, failure.value)
            for failure in FailureClass
            if failure is not FailureClass.USER_ERROR
        }
    )


DEFAULT_BUDGETS = budgets_of(RetriesSpec())


@dataclass(frozen=True)
class RetryRules:
    """How a trial is tried again, beside how often.

    Attributes:
        base_s: Seconds before the first retry after a failure that time mends; then doubled.
        limit_s: Longest wait, before it is varied.
        jitter: Share by which a wait is varied, in [0, 1).
        strict_numerics: Whether the micro-batch stays also after memory ran out (method rule 22).
        store_s: How long a store that does not answer is waited for.
    """

    base_s: float = 5.0
    limit_s: float = 300.0
    jitter: float = 0.1
    strict_numerics: bool = False
    store_s: float = 600.0

    @staticmethod
    def of(spec: RetriesSpec) -> RetryRules:
        """Return what a sweep says."""
        waits = spec.backoff_s, spec.backoff_limit_s, spec.jitter
        return RetryRules(*waits, spec.strict_numerics, spec.store_s)

    def wait_s(self, key: str, failure: FailureClass, num_failures: int) -> float:
        """Return the seconds to wait after a trial's n-th failure of one class, n >= 1.

        The variation is a hash of key, class and number: trials that fell together do not come
        back together, and yet the same history always gives the same times.
        """
        if failure not in MENDED_BY_TIME:
            return 0.0
        doublings = min(num_failures - 1, _MAX_DOUBLINGS)
        wait_s = min(self.limit_s, self.base_s * 2.0**doublings)
        return wait_s * (1 + self.jitter * (2 * _uniform(key, failure, num_failures) - 1))


DEFAULT_RULES = RetryRules()


@dataclass(frozen=True)
class Cause:
    """Why a trial did not succeed.

    Attributes:
        key: The trial in which it began: the trial itself or an ancestor.
        failure: Class of the failure; None where a policy skipped the trial or people gave it up.
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


def _uniform(key: str, failure: FailureClass, number: int) -> float:
    """Return a number in [0, 1) that depends on nothing else."""
    digest = hashlib.sha256(f"{key}/{failure.value}/{number}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
