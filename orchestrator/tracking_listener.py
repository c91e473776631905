"""Mirrors a running sweep to MLflow from a thread of its own; the sweep never waits for it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from functools import partial

from orchestrator.judging import judge_sweep
from orchestrator.listeners import SilentListener, SweepOutcome
from orchestrator.scheduler import Cause
from orchestrator.store import Store
from orchestrator.tracking import MlflowTracker
from search_spaces.contracts import TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial

_QUEUE_SIZE = 256  # what does not fit is mirrored at the end
_Finished = tuple[Trial, TrialResult]


class TrackingListener(SilentListener):
    """Mirrors what succeeds, and at the end what is missing, then the verdicts.

    When MLflow fails the sweep goes on: it is said once, and the rest waits for the end.

    Args:
        tracker: Already connected; used by the thread only.
        spec: The sweep.
        store: Where results and masks are.
        say: Tells people one sentence.
    """

    def __init__(
        self, tracker: MlflowTracker, spec: SweepSpec, store: Store, say: Callable[[str], None]
    ) -> None:
        self._tracker, self._spec, self._store, self._say = tracker, spec, store, say
        self._queue: queue.Queue[_Finished] = queue.Queue(_QUEUE_SIZE)
        self._trials: dict[str, Trial] = {}
        self._results: dict[str, TrialResult] = {}
        self._mirrored: set[str] = set()
        self._blocked: set[str] = set()
        self._outcome: SweepOutcome | None = None
        self._ended = threading.Event()
        self._is_complete = False
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def started(self, trial: Trial, attempt: str) -> None:
        """Remember the trial: verdicts must know of those that fail."""
        self._trials[trial.key] = trial

    def succeeded(self, trial: Trial, result: TrialResult) -> None:
        """Mirror the trial soon."""
        self._trials[trial.key] = trial
        self._results[trial.key] = result
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait((trial, result))

    def reused(self, trial: Trial, result: TrialResult) -> None:
        """Mirror the trial soon, unless it is there."""
        self.succeeded(trial, result)

    def blocked(self, trial: Trial, cause: Cause) -> None:
        """Remember that the trial has failed with its ancestor."""
        self._trials[trial.key] = trial
        self._blocked.add(trial.key)

    def finished(self, outcome: SweepOutcome) -> None:
        """Let the thread catch up; ``close`` waits for it."""
        self._outcome = outcome
        self._ended.set()

    def close(self, timeout_s: float = 60.0) -> bool:
        """Wait until trials and verdicts are mirrored; return whether they are.

        May be called twice.
        """
        self._ended.set()
        self._thread.join(timeout_s)
        return self._is_complete

    def _work(self) -> None:
        is_well = True
        while not (self._ended.is_set() and self._queue.empty()):
            try:
                item = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if is_well:
                is_well = self._attempted(partial(self._mirror, *item))
                if not is_well:
                    self._say("The sweep goes on; MLflow is caught up with at the end.")
        self._is_complete = self._attempted(self._end)

    def _attempted(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # a server or driver may raise anything: results are safe
            problem = (str(error).splitlines() or [type(error).__name__])[0]
            self._say(
                f"MLflow at {self._tracker.uri} failed: {problem}. All results are in the store; "
                "running the sweep again mirrors what is missing."
            )
            return False
        return True

    def _mirror(self, trial: Trial, result: TrialResult) -> None:
        self._tracker.mirror(trial, result, self._store)
        self._mirrored.add(trial.key)

    def _end(self) -> None:
        """Mirror what is missing, then judge what there is."""
        self._tracker.check()
        for key in self._results.keys() - self._mirrored:
            self._mirror(self._trials[key], self._results[key])
        failed = self._blocked.union(self._outcome.failures if self._outcome else ())
        judged = judge_sweep(self._spec, list(self._trials.values()), self._results, failed)
        self._tracker.log_verdicts(judged, self._spec.verdict.rule, self._spec.replicate)
        self._tracker.finish(self._outcome is not None and self._outcome.succeeded)
