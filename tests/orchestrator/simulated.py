"""An executor and a clock in which only time is fake: attempts leave real files in the store."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Mapping

from orchestrator.costs import trial_length
from search_spaces.contracts import (
    Compute,
    Failed,
    FailureClass,
    Outcome,
    Progress,
    Succeeded,
    TrialRequest,
)
from search_spaces.trial import Trial
from tests.orchestrator.factories import finish


class Killed(BaseException):
    """The orchestrator's process ends here, without any chance to tidy up."""


class FakeClock:
    """Time that passes only when somebody waits; may kill its caller at the n-th look."""

    def __init__(self, kill_at_look: int | None = None) -> None:
        self.now = 1000.0
        self._looks_left = kill_at_look

    def __call__(self) -> float:
        if self._looks_left is not None:
            self._looks_left -= 1
            if self._looks_left == 0:
                raise Killed
        return self.now


class SimulatedExecutor:
    """Ends every attempt after some seconds on the fake clock, well or as ``fail`` says.

    Has one device for each slot; attempts take one, or as many as ``ranks`` says by trial key.
    """

    description = "simulated"

    def __init__(
        self,
        clock: FakeClock,
        store_uri: str,
        trials: Iterable[Trial],
        num_slots: int = 2,
        rng: random.Random | None = None,
        fail: Callable[[TrialRequest], FailureClass | None] = lambda request: None,
        ranks: Mapping[str, int] | None = None,
    ) -> None:
        self.num_slots = num_slots
        self.submitted: list[tuple[str, str]] = []  # (key, attempt)
        self.started_at: list[float] = []
        self.cancelled: list[str] = []
        self.max_running = self.max_ranks = 0
        self._ranks = ranks or {}
        self.num_closes = 0
        self._clock, self._store_uri, self._fail = clock, store_uri, fail
        self._trials = {trial.key: trial for trial in trials}
        self._rng = rng or random.Random(0)
        self._running: list[tuple[float, int, TrialRequest]] = []

    def has_room(self, compute: Compute) -> bool:
        return self._num_ranks + compute.num_ranks <= self.num_slots

    def submit(self, request: TrialRequest) -> None:
        if self._num_ranks + self._ranks.get(request.spec.key, 1) > self.num_slots:
            raise RuntimeError("no slot is free")
        self.submitted.append((request.spec.key, request.attempt))
        self.started_at.append(self._clock.now)
        end = self._clock.now + self._rng.choice([0.25, 1.0, 3.0])
        heapq.heappush(self._running, (end, len(self.submitted), request))
        self.max_running = max(self.max_running, len(self._running))
        self.max_ranks = max(self.max_ranks, self._num_ranks)

    def wait(self, timeout_s: float) -> list[Outcome]:
        until = self._clock.now + timeout_s
        if self._running and self._running[0][0] <= until:
            until = max(self._clock.now, self._running[0][0])
        self._clock.now = until
        outcomes = []
        while self._running and self._running[0][0] <= until:
            outcomes.append(self._end(heapq.heappop(self._running)[2]))
        return outcomes

    def progress(self) -> list[Progress]:
        return [
            Progress(trial_key=r.spec.key, phase="train", step=1, num_steps=10, loss=0.5)
            for _, _, r in self._running
        ]

    def cancel(self, trial_key: str) -> None:
        self.cancelled.append(trial_key)
        self._running = [one for one in self._running if one[2].spec.key != trial_key]
        heapq.heapify(self._running)

    def close(self) -> None:
        self.num_closes += 1
        self._running.clear()

    @property
    def _num_ranks(self) -> int:
        return sum(self._ranks.get(one.spec.key, 1) for _, _, one in self._running)

    def _end(self, request: TrialRequest) -> Outcome:
        key, attempt = request.spec.key, request.attempt
        failure = self._fail(request)
        if failure:
            return Failed(trial_key=key, attempt=attempt, failure=failure, message="it broke")
        result = finish(self._store_uri, self._trials[key], attempt)
        return Succeeded(trial_key=key, attempt=attempt, result=result)


def naive_urgency(trials, compute_for):
    """Return each trial's longest remaining time, and its place among equals, by recursion."""

    def length(trial):
        below = [length(child) for child in trials if trial.key in child.waits_for]
        return trial_length(trial.spec, compute_for(trial)) + max(below, default=0.0)

    return {trial.key: (length(trial), -place) for place, trial in enumerate(trials)}
