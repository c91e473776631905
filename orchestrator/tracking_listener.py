"""Mirrors a running sweep to MLflow from a thread of its own; the sweep never waits for it."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from orchestrator.judging import Judged, judge_sweep
from orchestrator.listeners import SilentListener, SweepOutcome
from orchestrator.mirror_lag import MirrorLag, write_lag
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

PAUSE_S = 30.0  # the longest one before a failing MLflow is tried again
PATIENCE_S = 30.0  # with an MLflow that does not answer when the sweep has ended
_FIRST_PAUSE_S = 1.0  # doubled with each failure
_SHORTEST_PAUSE_S = 0.05
_LAG_EVERY_S = 2.0
_log = logging.getLogger(__name__)


class TrackingListener(SilentListener):
    """Mirrors what succeeds, and at the end what is missing, then the verdicts and winners.

    When MLflow fails the sweep goes on. What failed is tried again at once, then it is said once,
    and pauses that double lie between all further tries. What is still missing when the sweep has
    ended is tried until MLflow has not answered for a while. A sweep that was stopped has not
    ended: its verdicts, and those that they replace, wait for its end.

    Args:
        tracker: Already connected; used by the thread only.
        spec: The sweep.
        store: Where results and masks are.
        say: Tells people one sentence.
        pause_s: The longest pause before MLflow is tried again.
        patience_s: How long an MLflow that does not answer is waited for at the end.
        lag_path: Where it is written down how far MLflow is behind; None = nowhere.
        trials: All trials of the sweep. Verdicts must know of those that nobody speaks of here:
            a level that never began, or that a policy skipped, is no level to jump over.
    """

    def __init__(
        self,
        tracker: MlflowTracker,
        spec: SweepSpec,
        store: Store,
        say: Callable[[str], None],
        pause_s: float = PAUSE_S,
        patience_s: float = PATIENCE_S,
        lag_path: Path | None = None,
        trials: Iterable[Trial] = (),
    ) -> None:
        self._tracker, self._spec, self._store, self._say = tracker, spec, store, say
        self._pause_s, self._patience_s = max(pause_s, _SHORTEST_PAUSE_S), patience_s
        self._lag_path, self._lag_at = lag_path, -math.inf
        self._failing_since: float | None = None
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()  # of keys
        self._trials: dict[str, Trial] = {trial.key: trial for trial in trials}
        self._results: dict[str, TrialResult] = {}
        self._told_at: dict[str, float] = {}  # of those that are not mirrored yet, oldest first
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
        self._told_at.setdefault(trial.key, time.time())
        self._queue.put(trial.key)

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
            self._tell(problems[0] + others)
        self._is_complete = not problems

    def _follow(self) -> None:
        """Mirror what comes in; what fails goes to the back, and MLflow is left alone a while."""
        has_failed, pause_s = False, min(_FIRST_PAUSE_S, self._pause_s)
        while not self._ended.is_set():
            self._note_lag()
            try:
                key = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            problem = self._tried(partial(self._mirror, key))
            if problem is None:
                pause_s = min(_FIRST_PAUSE_S, self._pause_s)
                continue
            self._queue.put(key)
            if not has_failed:
                self._tell(f"{problem} The sweep goes on; the mirror is tried again.")
            has_failed = True
            self._note_lag(is_news=True)
            self._ended.wait(pause_s)
            pause_s = min(2 * pause_s, self._pause_s)

    def _end(self) -> list[str]:
        """Mirror what is missing, judge, register winners; return what went wrong.

        A run that cannot be written holds up no other; an MLflow that does not answer ends it.
        """
        missing = sorted(self._results.keys() - self._mirrored)
        writes: list[Callable[[], None]] = [partial(self._mirror, key) for key in missing]
        problems: list[str] = []
        has_ended = self._outcome is not None and not self._outcome.cancelled
        last = (self._judge, self._register) if has_ended else (self._stop,)
        for action in (self._tracker.check, *writes, self._tidy, *last):
            problem = self._tried(action)
            if problem is not None and (answers := self._answers_again()):
                problem = self._problem(action)
            if problem is not None:
                problems.append(problem)
                if not answers:
                    break
        self._note_lag(is_news=True)
        return problems

    def _answers_again(self) -> bool:
        """Wait for MLflow to answer; return whether it does."""
        patient_until_s = time.monotonic() + self._patience_s
        pause_s = min(_FIRST_PAUSE_S, self._pause_s)
        while self._problem(self._tracker.check) is not None:
            if time.monotonic() + pause_s > patient_until_s:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, self._pause_s)
        return True

    def _tried(self, action: Callable[[], None]) -> str | None:
        """Try twice, because one lost connection is nobody's concern; return what went wrong."""
        if self._problem(action) is None:
            self._failing_since = None
            return None
        time.sleep(_SHORTEST_PAUSE_S)
        problem = self._problem(action)
        since = self._failing_since or time.time()
        self._failing_since = None if problem is None else since
        return problem

    def _problem(self, action: Callable[[], None]) -> str | None:
        """Return in a sentence why an action failed; None when it did not."""
        try:
            action()
        except UserError as error:
            return str(error)
        except Exception as error:  # a server or driver may raise anything: results are safe
            return f"MLflow at {masked(self._tracker.uri)} failed: {first_line(error)}."
        return None

    def _tell(self, text: str) -> None:
        """Say something; a terminal that is gone is no reason to stop mirroring."""
        try:
            self._say(text)
        except Exception:
            _log.warning("%s", text)

    def _mirror(self, key: str) -> None:
        self._tracker.mirror(self._trials[key], self._results[key], self._store)
        self._mirrored.add(key)
        self._told_at.pop(key, None)

    def _tidy(self) -> None:
        self._tracker.drop_copies(self._results.keys())

    def _note_lag(self, is_news: bool = False) -> None:
        """Write down how far MLflow is behind, every few seconds."""
        elapsed_s = time.monotonic()  # the clock may be set back
        if self._lag_path is None or not (is_news or elapsed_s - self._lag_at >= _LAG_EVERY_S):
            return
        self._lag_at, now, waiting = elapsed_s, time.time(), list(self._told_at.values())
        oldest_at = min(waiting, default=None)
        lag = MirrorLag(now, len(self._mirrored), len(waiting), oldest_at, self._failing_since)
        write_lag(self._lag_path, lag)

    def _judge(self) -> None:
        spec, judged = self._spec, self._judged()
        transfers = judge_transfers(spec, list(self._trials.values()), self._results)
        self._tracker.log_verdicts(judged, spec.verdict.rule, spec.replicate, transfers)
        self._tracker.finish(self._outcome is not None and not self._outcome.has_failures)

    def _stop(self) -> None:
        self._tracker.finish(succeeded=False)

    def _register(self) -> None:
        trials, judged = list(self._trials.values()), self._judged()
        register_winners(self._tracker, self._spec, trials, self._results, judged, self._store)

    def _judged(self) -> list[Judged]:
        failed = self._failed.union(self._outcome.failures if self._outcome else ())
        return judge_sweep(self._spec, list(self._trials.values()), self._results, failed)
