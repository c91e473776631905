"""`tickets sync`: what a user sees, and when nothing or not everything is to be done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.finishing import ended
from orchestrator.judging import judge_sweep
from orchestrator.mirror_lag import lag_path, read_lag
from orchestrator.sweep_context import SweepContext
from orchestrator.sync_command import _lines
from orchestrator.syncing import SyncReport
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_diff import is_at_hand
from orchestrator.tracking_verdicts import VerdictPlan
from tests.orchestrator.committed_sweeps import commit
from tests.orchestrator.mirrored import runs_of
from tests.orchestrator.mirrored_sweep import SMALL, Place
from tests.orchestrator.said import Say, saying
from tests.orchestrator.sweeps import write_sweep


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    return saying("sync", monkeypatch, capsys)


def test_the_command_says_what_it_does(place: Place, say: Say) -> None:
    """Check foretells with exit code 1, then all is done, then there is nothing to do."""
    run = place.run()
    place.client.delete_run(run.info.run_id)
    said = say(place.path, "--check")
    assert said.code == 1
    assert "its run was deleted: to be restored." in said.out
    assert "committed trials, 1 to do." in said.out
    said = say(place.path)
    assert said.code == 0
    assert f"{run.info.run_name} (" in said.out and "its run was deleted: restored." in said.out
    assert "committed trials, 1 done, 0 left." in said.out
    said = say(place.path)
    assert said.code == 0
    assert "committed trials are there. Nothing to do." in said.out
    told = json.loads(say(place.path, "--check", "--json").out)
    assert (told["entries"], told["sweep"], told["is_check"]) == ([], "s", True)
    assert told["num_trials"] == len(place.context.trials)


def log_verdicts(place: Place, sweep_hash: str) -> VerdictPlan:
    """Make a set of trials the current one of the sweep's name; return what had to be done."""
    spec, trials = place.context.spec, place.context.trials
    judged = judge_sweep(spec, trials, ended(place.context, place.store)[0])
    tracker = MlflowTracker(place.uri, "s", "s", sweep_hash)
    told = judged, spec.verdict.rule, spec.replicate
    plan = tracker.plan_verdicts(*told)
    tracker.log_verdicts(*told)
    tracker.finish(succeeded=True)
    return plan


def test_verdicts_of_a_later_set_of_trials_are_not_taken_back(place: Place, say: Say) -> None:
    """Mending does not decide which of two sweeps of one name counts; a run does."""
    assert log_verdicts(place, "later").past
    before = place.content()
    assert place.check().entries == place.sync().entries == ()
    assert place.content() == before
    said = say(place.path)
    assert said.code == 0
    assert "The verdicts of another set of trials of the name s are the current ones" in said.out
    assert log_verdicts(place, place.context.info.sweep_hash).past
    report = place.check()
    assert (report.entries, report.is_superseded) == ((), False)


@pytest.mark.slow
def test_a_sweep_that_has_not_ended_gets_no_verdicts(
    place: Place, say: Say, tmp_path: Path
) -> None:
    """What is committed is mirrored all the same, also where there was no database yet."""
    other = write_sweep(tmp_path, "half", place.root, **SMALL)
    commit(other, 0.0)
    context = SweepContext.open(other)
    final = next(trial for trial in context.trials if trial.kind == "final")
    shutil.rmtree(tmp_path / "half-store" / "results" / final.key)
    said = say(other, "--check")
    assert said.code == 2
    assert "there is no database" in said.err
    assert not (tmp_path / "half.db").exists()
    said = say(other)
    assert said.code == 0
    assert "The sweep has not ended: its verdicts come with its end." in said.out
    uri = context.spec.tracking.uri
    assert runs_of(uri, "half", "tags.kind = 'verdict'") == []
    assert len(runs_of(uri, "half", "tags.trial_key != ''")) == len(context.trials) - 1
    assert read_lag(lag_path(context.journal_path)) is None  # without a journal no status is asked


def test_files_elsewhere_are_compared_by_size_and_that_is_said(place: Place) -> None:
    """They are read on demand alone: masks are large, and there are many."""
    for is_read in (True, False):
        report = SyncReport("s", 1, (), True, is_superseded=False, are_files_read=is_read)
        said = "\n".join(_lines(place.context, report, check=False))
        assert ("compared by size" in said and "--verify reads them." in said) != is_read
    for uri in ("file:///a/b", "/a/b"):
        assert is_at_hand(uri)
    for uri in ("mlflow-artifacts:/1", "s3://bucket/1", "http://host/1"):
        assert not is_at_hand(uri)
