"""Attempts that end in every way there is: well, badly, twice, or after they were given up."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from search_spaces.contracts import Failed, FailureClass, Outcome, Succeeded, TrialRequest
from tests.orchestrator.factories import finish
from tests.orchestrator.simulated import SimulatedExecutor

FATES = ("well", "badly", "twice", "late", "late and badly")
_WEIGHTS = (8, 3, 1, 1, 1)
_FAILURES = tuple(FailureClass)


class Erratic(SimulatedExecutor):
    """Draws each attempt's fate; also returns answers of attempts that nobody waits for any more.

    A *late* attempt is first called dead and answers all the same, sometimes only to the driver
    that comes after a crash. Beside that it writes down what must be true of it.

    Attributes:
        failures: Answers that told of a failure, by trial and class.
        well: Attempts that ended well when they were waited for first, by trial.
        is_calm: From now on all ends well.
    """

    def __init__(
        self, *arguments: Any, ghosts: list[Outcome], parents: dict[str, set[str]], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._ghosts, self._parents = ghosts, parents
        self.failures: Counter[tuple[str, FailureClass]] = Counter()
        self.well: set[tuple[str, str]] = set()
        self.committed: set[str] = set()
        self.is_calm = False

    def submit(self, request: TrialRequest) -> None:
        key = request.spec.key
        assert self._parents[key] <= self.committed, "a trial began before its parents were done"
        assert key not in self.committed, "a committed trial ran again"
        super().submit(request)

    def wait(self, timeout_s: float) -> list[Outcome]:
        ghosts = self._some_ghosts()  # none of an attempt that ends now: it would be no ghost
        outcomes = [*ghosts, *super().wait(timeout_s)]
        self._rng.shuffle(outcomes)
        return outcomes

    def _some_ghosts(self) -> list[Outcome]:
        chosen = [one for one in self._ghosts if self._rng.random() < 0.3]
        self._ghosts[:] = [one for one in self._ghosts if one not in chosen]
        return chosen

    def _end(self, request: TrialRequest) -> Outcome:
        key, attempt = request.spec.key, request.attempt
        fate = "well" if self.is_calm else self._rng.choices(FATES, _WEIGHTS)[0]
        result = finish(self._store_uri, self._trials[key], attempt)
        good = Succeeded(trial_key=key, attempt=attempt, result=result)
        if fate in ("well", "twice"):
            self._ghosts += [good] if fate == "twice" else []
            self.well.add((key, attempt))
            return good
        bad = _failed(key, attempt, self._rng)
        self._ghosts += {"badly": [], "late": [good], "late and badly": [bad]}[fate]
        self.failures[key, bad.failure] += 1
        return bad


def _failed(key: str, attempt: str, rng: random.Random) -> Failed:
    return Failed(trial_key=key, attempt=attempt, failure=rng.choice(_FAILURES), message="it broke")
