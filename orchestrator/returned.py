"""What the executor has returned: each answer is dealt with once, and only if it is awaited."""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from orchestrator.journal import Journal
from orchestrator.store import DamagedArtifactError, Store
from search_spaces.canonical import short
from search_spaces.contracts import (
    Clock,
    Failed,
    FailureClass,
    Outcome,
    Succeeded,
    TrialRequest,
    TrialResult,
    TrialState,
)
from search_spaces.errors import StoreAwayError, UserError
from search_spaces.trial import Trial

_log = logging.getLogger(__name__)


class Returned:
    """Holds outcomes until they are dealt with, and knows which attempt of a trial is awaited.

    Args:
        journal: Told of answers that are refused.
        clock: Seconds since the epoch.
    """

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal, self._clock = journal, clock
        self._outcomes: deque[Outcome] = deque()
        self._opened: Outcome | None = None  # the one that is being dealt with
        self._attempts: dict[str, str] = {}  # the last attempt of each trial

    def expect(self, key: str, attempt: str) -> None:
        """Await the answer of an attempt, and none of an earlier one of its trial."""
        self._attempts[key] = attempt

    def put(self, outcomes: Iterable[Outcome]) -> None:
        """Add what the executor has returned."""
        self._outcomes.extend(outcomes)

    def awaited(self, state: Callable[[str], TrialState]) -> Iterator[Outcome]:
        """Yield and remove every outcome of an attempt that runs; refuse the others.

        An outcome whose handling is interrupted stays, and is yielded again if it is still
        awaited.

        Args:
            state: Returns the state of a trial.
        """
        while self._outcomes:
            outcome = self._outcomes[0]
            is_new, self._opened = outcome is not self._opened, outcome
            is_current = self._attempts.get(outcome.trial_key) == outcome.attempt
            if is_current and state(outcome.trial_key) is TrialState.RUNNING:
                yield outcome
            elif is_new:
                self._refuse(outcome)
            self._outcomes.popleft()

    def _refuse(self, outcome: Outcome) -> None:
        """Write down that an attempt answered which was given up or replaced; else ignore it."""
        key, answer = outcome.trial_key, type(outcome).__name__.lower()
        payload = {"attempt": outcome.attempt, "answer": answer, "current": self._attempts.get(key)}
        self._journal.note(key, "refused", payload, self._clock())
        _log.warning(
            "Trial %s: attempt %s answered (%s), but it was given up or replaced before. "
            "Its answer is refused.",
            short(key),
            outcome.attempt,
            answer,
        )


def publish(store: Store, trial: Trial, outcome: Succeeded) -> TrialResult | Failed:
    """Commit a result; may be done again where the store did not answer.

    Args:
        store: Where to.
        trial: Whose result it is.
        outcome: As the attempt returned it.

    Returns:
        The result that counts, another attempt's where that was committed first; or why this
        attempt has failed after all.
    """
    if absent := [n for n in trial.outputs.artifacts if n not in outcome.result.artifacts]:
        message = f"The attempt ended well, but left no {', '.join(absent)}."
        return failed_attempt(trial.key, outcome.attempt, FailureClass.ERROR, message)
    try:
        store.commit(outcome.result, trial.spec)
    except DamagedArtifactError as error:
        failure = FailureClass.INFRASTRUCTURE
        return failed_attempt(trial.key, outcome.attempt, failure, str(error))
    return store.read(trial.key) or outcome.result


def requested(make: Callable[[], TrialRequest], key: str, attempt: str) -> TrialRequest | Failed:
    """Return an attempt's request, or why it cannot be made.

    Raises:
        StoreAwayError: The store did not answer; nothing is known of the trial.
    """
    try:
        return make()
    except StoreAwayError:
        raise
    except UserError as error:
        return failed_attempt(key, attempt, FailureClass.USER_ERROR, str(error))


def failed_attempt(key: str, attempt: str, failure: FailureClass, message: str) -> Failed:
    """Return the failure of an attempt that the driver itself finds."""
    return Failed(trial_key=key, attempt=attempt, failure=failure, message=message)


def new_attempt(number: int) -> str:
    """Return the name of a trial's n-th attempt: unique, so that no two write to one folder."""
    return f"a{number:04d}-{secrets.token_hex(4)}"
