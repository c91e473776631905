"""Mirrors a running sweep to MLflow from a thread of its own; the sweep never waits for it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from functools import partial

from orchestrator.judging import Judged, judge_sweep
from orchestrator.listeners import SilentListener, SweepOutcome
from orchestrator.registering import register_winners
from orchestrator.retries import Cause
from orchestrator.store import Store
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_client import first_line
from orchestrator.transfer_judging import judge_transfers
from search_spaces.contracts import Failed, TrialResult
from search_spaces.errors import UserError
from search_spaces.places import masked
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial

PAUSE_S = 30.0  # after a failure, before MLflow is tried again
_QUEUE_SIZE = 256  # what does not fit is mirrored at the end
_Finished = tuple[Trial, TrialResult]


class TrackingListener(SilentListener):
    """Mirrors what succeeds, and at the end what is missing, then the verdicts and winners.

    When MLflow fails the sweep goes on: it is said once, the next trial after a pause tries again,
    and the rest waits for the end.

    Args:
        tracker: Already connected; used by the thread only.
        spec: The sweep.
        store: Where results and masks are.
        say: Tells people one sentence.
        pause_s: How long MLflow is left alone after a failure.
    """

    def __init__(
        self,
        tracker: MlflowTracker,
        spec: SweepSpec,
        store: Store,
        say: Callable[[str], None],
        pause_s: float = PAUSE_S,
    ) -> None:
        self._tracker, self._spec, self._store, self._say = tracker, spec, store, say
        self._pause_s = pause_s
        self._queue: queue.Queue[_Finished] = queue.Queue(_QUEUE_SIZE)
        self._trials: dict[str, Trial] = {}
        self._results: dict[str, TrialResult] = {}
        self._mirrored: set[str] = set()
        self._failed: set[str] = set()
        self._outcome: SweepOutcome | None = None
        self._ended = threading.Event()
        self._is_complete = False
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def num_missing(self) -> int:
        """Return the number of results that are committed and not yet mirrored."""
        return len(self._results) - len(self._mirrored)

    def started(self, trial: Trial, attempt: str) -> None:
        """Remember the trial: verdicts must know of those that never end."""
        self._trials[trial.key] = trial

    def succeeded(self, trial: Trial, result: TrialResult) -> None:
        """Mirror the trial soon."""
        self._trials[trial.key] = trial
        self._results[trial.key] = result
        self._failed.discard(trial.key)  # people may have reopened it
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait((trial, result))

    def reused(self, trial: Trial, result: TrialResult) -> None:
        """Mirror the trial soon, unless it is there."""
        self.succeeded(trial, result)

    def failed(self, trial: Trial, failed: Failed, will_retry: bool) -> None:
        """Remember a trial that failed for good, also when it could not even start."""
        if not will_retry:
            self._lose(trial)

    def blocked(self, trial: Trial, cause: Cause) -> None:
        """Remember that the trial has failed with its ancestor."""
        self._lose(trial)

    def finished(self, outcome: SweepOutcome) -> None:
        """Let the thread catch up; ``close`` waits for it."""
        self._outcome = outcome
        self._ended.set()

    def close(self, timeout_s: float = 60.0) -> bool:
        """Wait until trials and verdicts are mirrored; return whether all of them are.

        May be called twice.

        Args:
            timeout_s: How long to wait while no run is written; it starts anew with each.
        """
        self._ended.set()
        num_before = -1
        while self._thread.is_alive() and self._tracker.num_done > num_before:
            num_before = self._tracker.num_done
            self._thread.join(timeout_s)
        return self._is_complete

    def _lose(self, trial: Trial) -> None:
        self._trials[trial.key] = trial
        self._failed.add(trial.key)

    def _work(self) -> None:
        self._follow()
        problems = self._end()
        if problems:
            others = f" (The first of {len(problems)} failures.)" if len(problems) > 1 else ""
            self._say(problems[0] + others)
        self._is_complete = not problems

    def _follow(self) -> None:
        """Mirror what comes in; after a failure leave MLflow alone for a while."""
        has_failed, resume_s = False, 0.0
        while not (self._ended.is_set() and self._queue.empty()):
            try:
                trial, result = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if time.monotonic() < resume_s:
                continue
            problem = self._problem(partial(self._mirror, trial, result))
            if problem is not None:
                resume_s = time.monotonic() + self._pause_s
                if not has_failed:
                    self._say(f"{problem} The sweep goes on; the mirror is tried again.")
                has_failed = True

    def _end(self) -> list[str]:
        """Mirror what is missing, judge what there is, register winners; return what went wrong.

        A run that cannot be written holds up no other; an MLflow that does not answer ends it.
        """
        missing = sorted(self._results.keys() - self._mirrored)
        writes: list[Callable[[], None]] = [
            partial(self._mirror, self._trials[key], self._results[key]) for key in missing
        ]
        problems: list[str] = []
        for action in (self._tracker.check, *writes, self._judge, self._register):
            problem = self._problem(action)
            if problem is not None:
                problems.append(problem)
                if self._problem(self._tracker.check) is not None:
                    break
        return problems

    def _problem(self, action: Callable[[], None]) -> str | None:
        """Return in a sentence why an action failed; None when it did not."""
        try:
            action()
        except UserError as error:
            return str(error)
        except Exception as error:  # a server or driver may raise anything: results are safe
            return f"MLflow at {masked(self._tracker.uri)} failed: {first_line(error)}."
        return None

    def _mirror(self, trial: Trial, result: TrialResult) -> None:
        self._tracker.mirror(trial, result, self._store)
        self._mirrored.add(trial.key)

    def _judge(self) -> None:
        spec, judged = self._spec, self._judged()
        transfers = judge_transfers(spec, list(self._trials.values()), self._results)
        self._tracker.log_verdicts(judged, spec.verdict.rule, spec.replicate, transfers)
        self._tracker.finish(self._outcome is not None and self._outcome.succeeded)

    def _register(self) -> None:
        trials, judged = list(self._trials.values()), self._judged()
        register_winners(self._tracker, self._spec, trials, self._results, judged, self._store)

    def _judged(self) -> list[Judged]:
        failed = self._failed.union(self._outcome.failures if self._outcome else ())
        return judge_sweep(self._spec, list(self._trials.values()), self._results, failed)
