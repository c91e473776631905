"""The mirror while a sweep runs: all it is told is in MLflow at last, and nothing waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.retries import Cause
from orchestrator.store import Store
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_listener import TrackingListener
from search_spaces.contracts import Failed, FailureClass, TrialResult, TrialState
from search_spaces.errors import UserError
from search_spaces.trial import Trial
from tests.orchestrator.mirrored import committed_lineage, outcome, runs_of, sparsities
from tests.orchestrator.small_worlds import make_sweep, small_world


def test_the_listener_mirrors_trials_and_verdicts(uri: str, tmp_path: Path) -> None:
    """After close there is a run per trial, and one per level and rule, also the second time."""
    trials, results = small_world()
    store, said = Store(str(tmp_path)), list[str]()
    for _ in range(2):
        tracker = MlflowTracker(uri, "listener", "small", "hash")
        listener = TrackingListener(tracker, make_sweep(), store, said.append)
        for trial in trials:
            listener.succeeded(trial, results[trial.key])
        listener.finished(outcome(len(trials)))
        assert listener.close(30)
    assert said == []
    assert len(runs_of(uri, "listener", "tags.trial_key != ''")) == len(trials)
    verdicts = runs_of(uri, "listener", "tags.kind = 'verdict'")
    assert len(verdicts) == 2 * 5
    dense = runs_of(uri, "listener", "tags.kind = 'verdict' and tags.contiguous = 'true'")
    assert {run.data.metrics["sparsity"] for run in dense} == {0.1}
    (parent,) = runs_of(uri, "listener", "tags.kind = 'sweep'")
    assert parent.info.status == "FINISHED"


def test_a_level_whose_lineages_failed_is_undecided(uri: str, tmp_path: Path) -> None:
    """Finals that never ran because their ancestors failed end the curve; they are no gap."""
    trials, results = small_world()
    tracker, said = MlflowTracker(uri, "blocked", "small", "hash"), list[str]()
    listener = TrackingListener(tracker, make_sweep(), Store(str(tmp_path)), said.append)
    for trial in trials:
        if trial.kind == "final" and trial.spec.num_removed == 200:
            listener.blocked(trial, Cause("c" * 64, FailureClass.ERROR, "it broke"))
        else:
            listener.succeeded(trial, results[trial.key])
    listener.finished(outcome(len(trials)))
    assert listener.close(30)
    undecided = runs_of(uri, "blocked", "tags.outcome = 'undecided' and tags.rule = 'strict'")
    assert [run.data.metrics["sparsity"] for run in undecided] == [0.2]


def test_a_level_that_never_began_is_not_jumped_over(uri: str, tmp_path: Path) -> None:
    """Nobody speaks of what a policy skipped or people cancelled; the sweep knows it is there."""
    trials, results = small_world()
    tracker, said = MlflowTracker(uri, "skipped", "small", "hash"), list[str]()
    store = Store(str(tmp_path))
    listener = TrackingListener(tracker, make_sweep(), store, said.append, trials=trials)
    for trial in trials:
        if trial.spec.num_removed != 100:
            listener.succeeded(trial, results[trial.key])
    ended = outcome(len(trials))
    ended.counts[TrialState.CANCELLED] = 2
    listener.finished(ended)
    assert listener.close(30)
    (parent,) = runs_of(uri, "skipped", "tags.kind = 'sweep'")
    assert parent.info.status == "FINISHED", "as 'tickets sync' has it: nothing failed"
    undecided = runs_of(uri, "skipped", "tags.outcome = 'undecided' and tags.rule = 'strict'")
    assert [run.data.metrics["sparsity"] for run in undecided] == [0.1]
    assert runs_of(uri, "skipped", "tags.kind = 'verdict' and tags.contiguous = 'true'") == []


def test_a_sweep_that_was_stopped_takes_no_verdict_back(uri: str, tmp_path: Path) -> None:
    """Those of the sweep before it was extended hold until it has ended."""
    trials, results = small_world()
    for sweep_hash, is_stopped in (("before", False), ("after", True)):
        tracker = MlflowTracker(uri, "stopped", "small", sweep_hash)
        listener = TrackingListener(tracker, make_sweep(), Store(str(tmp_path)), print)
        for trial in trials[:2] if is_stopped else trials:
            listener.succeeded(trial, results[trial.key])
        listener.finished(replace(outcome(len(trials)), cancelled=is_stopped))
        assert listener.close(30)
    verdicts = runs_of(uri, "stopped", "tags.kind = 'verdict'")
    assert {run.data.tags["sweep_hash"] for run in verdicts} == {"before"}
    assert {run.data.tags["superseded"] for run in verdicts} == {"false"}
    told = runs_of(uri, "stopped", "tags.kind = 'sweep' and tags.sweep_hash = 'after'")
    assert [run.info.status for run in told] == ["FAILED"]


def test_a_terminal_that_is_gone_does_not_end_the_mirror(uri: str, tmp_path: Path) -> None:
    """As with 'tickets run | head': what cannot be said is logged."""
    store, trials, results = committed_lineage(tmp_path)
    tracker, told = MlflowTracker(uri, "mute", "small", "hash"), list[str]()
    mirror = tracker.mirror

    def fail_at_first(*arguments: Any) -> str:
        if not told:
            raise UserError("no room.")
        return mirror(*arguments)

    def break_pipe(text: str) -> None:
        told.append(text)
        raise BrokenPipeError

    tracker.mirror = fail_at_first  # type: ignore[method-assign]
    listener = TrackingListener(tracker, make_sweep(), store, break_pipe, pause_s=0)
    for trial, result in zip(trials, results, strict=True):
        listener.succeeded(trial, result)
    deadline = time.monotonic() + 60
    while listener.num_missing() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert told == ["no room. The sweep goes on; the mirror is tried again."]
    listener.finished(outcome(3))
    assert listener.close(30)
    assert len(runs_of(uri, "mute", "tags.kind = 'round'")) == 3


def test_a_failing_mlflow_is_said_once_and_caught_up_with(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep goes on, people are told once, and at the end nothing is missing."""
    store, trials, results = committed_lineage(tmp_path)
    tracker, said = MlflowTracker(uri, "outage", "small", "hash"), list[str]()
    with monkeypatch.context() as patch:
        patch.setattr(tracker, "client", MlflowClient(f"sqlite:///{tmp_path}/absent/m.db"))
        listener = TrackingListener(tracker, make_sweep(), store, said.append)
        for trial, result in zip(trials, results, strict=True):
            listener.succeeded(trial, result)
        deadline = time.monotonic() + 20
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
    listener.finished(outcome(3))
    assert listener.close(30)
    assert len(said) == 1 and "failed" in said[0] and "goes on" in said[0]
    assert len(runs_of(uri, "outage", "tags.kind = 'round'")) == 3


class Broken:
    """A tracker's mirror that fails for some keys, or for a while; else it is the real one."""

    def __init__(self, tracker: MlflowTracker, fails: set[str], pause_s: float = 0) -> None:
        self._mirror, self.fails, self._pause_s = tracker.mirror, fails, pause_s

    def __call__(self, trial: Trial, result: TrialResult, store: Store | None = None) -> str:
        time.sleep(self._pause_s)
        if trial.key in self.fails:
            raise UserError(f"no room for {trial.key[:4]}.")
        return self._mirror(trial, result, store)


def listening(
    uri: str, name: str, store: Store, fails: set[str], pause_s: float = 0
) -> tuple[TrackingListener, list[str]]:
    tracker, said = MlflowTracker(uri, name, "small", "hash"), list[str]()
    tracker.mirror = Broken(tracker, fails, pause_s)  # type: ignore[method-assign]
    return TrackingListener(tracker, make_sweep(), store, said.append, pause_s=0), said


def wait_until(holds: Callable[[], object], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_one_failure_does_not_end_the_live_mirror(uri: str, tmp_path: Path) -> None:
    """After a pause the next trial is mirrored while the sweep runs, and it is said once."""
    store, trials, results = committed_lineage(tmp_path)
    listener, said = listening(uri, "again", store, {trials[0].key, trials[1].key})
    for trial, result in zip(trials, results, strict=True):
        listener.succeeded(trial, result)
    wait_until(lambda: runs_of(uri, "again", "tags.kind = 'round'"))
    (run,) = runs_of(uri, "again", "tags.kind = 'round'")
    assert run.data.tags["trial_key"] == trials[2].key
    assert len(said) == 1 and "no room" in said[0] and "The sweep goes on" in said[0]
    listener.finished(outcome(3))
    assert not listener.close(30)


def test_one_trial_that_cannot_be_mirrored_holds_up_nothing(uri: str, tmp_path: Path) -> None:
    """All others and the verdicts are there; close says that something is missing."""
    trials, results = small_world()
    listener, said = listening(uri, "poison", Store(str(tmp_path)), {trials[0].key})
    for trial in trials:
        listener.succeeded(trial, results[trial.key])
    listener.finished(outcome(len(trials)))
    assert not listener.close(30)
    assert len(runs_of(uri, "poison", "tags.trial_key != ''")) == len(trials) - 1
    assert sparsities(uri, "poison") == [0.1]
    assert len(said) == 2


def test_close_waits_as_long_as_runs_are_written(uri: str, tmp_path: Path) -> None:
    """Five trials of half a second each take longer than the wait for any one of them."""
    trials, results = small_world()
    listener, _ = listening(uri, "slow", Store(str(tmp_path)), set(), pause_s=0.5)
    for trial in trials[:5]:
        listener.succeeded(trial, results[trial.key])
    listener.finished(outcome(5))
    assert listener.close(2.0)


def test_close_gives_up_when_nothing_is_written(uri: str, tmp_path: Path) -> None:
    trials, results = small_world()
    listener, _ = listening(uri, "stuck", Store(str(tmp_path)), set(), pause_s=5)
    listener.succeeded(trials[0], results[trials[0].key])
    started = time.monotonic()
    assert not listener.close(0.2)
    assert time.monotonic() - started < 3


def test_a_trial_that_could_not_start_makes_its_level_undecided(uri: str, tmp_path: Path) -> None:
    """A final trial that failed before its first attempt is no gap in the curve."""
    trials, results = small_world()
    listener, _ = listening(uri, "unstarted", Store(str(tmp_path)), set())
    for trial in trials:
        if trial.kind == "final" and trial.spec.num_removed == 200:
            failed = Failed(
                trial_key=trial.key, attempt="a1", failure=FailureClass.USER_ERROR, message="no"
            )
            listener.failed(trial, failed, will_retry=False)
        else:
            listener.succeeded(trial, results[trial.key])
    listener.finished(outcome(len(trials)))
    assert listener.close(30)
    condition = "tags.outcome = 'undecided' and tags.rule = 'strict'"
    assert [run.data.metrics["sparsity"] for run in runs_of(uri, "unstarted", condition)] == [0.2]
