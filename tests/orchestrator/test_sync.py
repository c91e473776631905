"""`tickets sync` against a real MLflow on SQLite: whatever was done to it, it is put right."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from orchestrator.finishing import ended
from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, Transition
from orchestrator.judging import judge_sweep
from orchestrator.mirror_lag import lag_path, read_lag
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from orchestrator.sync_command import _lines
from orchestrator.syncing import SyncReport, check_mirror, sync_mirror
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_diff import is_at_hand
from orchestrator.tracking_verdicts import VerdictPlan
from search_spaces.contracts import TrialState
from tests.orchestrator.committed_sweeps import commit
from tests.orchestrator.mirrored import runs_of
from tests.orchestrator.mlflow_content import experiment_content
from tests.orchestrator.said import Say, saying
from tests.orchestrator.sweeps import write_data, write_sweep

SMALL: dict[str, Any] = {"seeds": [1, 2], "schedule": {"kind": "levels", "levels": [0.3]}}


class Place:
    """A finished sweep, and its MLflow."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = write_sweep(root, "s", root, **SMALL)
        self.context = SweepContext.open(self.path)
        self.store = Store(self.context.spec.store)
        self.uri = self.context.spec.tracking.uri

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def sync(self) -> SyncReport:
        return sync_mirror(self.context, self.store)

    def check(self) -> SyncReport:
        return check_mirror(self.context, self.store)

    def run(self, index: int = 0, condition: str = "tags.kind = 'final'") -> Run:
        return sorted(runs_of(self.uri, "s", condition), key=lambda run: run.info.run_name)[index]

    def content(self) -> list[dict[str, Any]]:
        """Return what all active runs say."""
        return experiment_content(self.root / "s.db", "s")

    def mended(self) -> tuple[str, str]:
        """Mend the one thing that is wrong, as foretold; return problem and remedy."""
        foretold = self.check().entries
        report = self.sync()
        assert [vars(one) for one in foretold] == [vars(one) for one in report.entries]
        (entry,) = report.entries
        assert not self.sync().entries, "a second time there is nothing to do"
        return entry.problem, entry.remedy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Data, model, store and an MLflow that is up to date."""
    root = tmp_path_factory.mktemp("sync")
    write_data(root)
    place = Place(root)
    commit(place.path, 0.0)
    place.sync()
    return place


@pytest.fixture
def place(made: Place) -> Iterator[Place]:
    """The same for each test: what one did to MLflow's database is taken back."""
    kept = made.root / "kept.db"
    shutil.copy(made.root / "s.db", kept)
    try:
        yield made
    finally:
        shutil.copy(kept, made.root / "s.db")


def edit(place: Place, asked: str, *values: object) -> None:
    """Do by SQL what MLflow itself does not allow."""
    with sqlite3.connect(place.uri.removeprefix("sqlite:///")) as database:
        assert database.execute(asked, values).rowcount == 1
    database.close()


def test_a_mirror_that_is_whole_is_left_as_it_is(place: Place) -> None:
    before = [(run.info.run_id, run.info.end_time) for run in runs_of(place.uri, "s")]
    assert place.check().entries == place.sync().entries == ()
    assert [(run.info.run_id, run.info.end_time) for run in runs_of(place.uri, "s")] == before


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("task", "other", "tag task is 'other', not 'toy'"),
        pytest.param("method", None, "tag method is missing", marks=pytest.mark.slow),
        pytest.param("sweep", "t", "tag sweep is 't', not 's'", marks=pytest.mark.slow),
    ],
)
def test_changed_tags_are_set_back(place: Place, name: str, value: str, problem: str) -> None:
    before, run = place.content(), place.run()
    if value is None:
        place.client.delete_tag(run.info.run_id, name)
    else:
        place.client.set_tag(run.info.run_id, name, value)
    assert place.mended() == (problem, "mended")
    assert place.content() == before
    assert place.run().info.run_id == run.info.run_id


def test_a_metric_changed_by_hand_makes_the_run_anew(place: Place) -> None:
    """MLflow keeps every point for ever; notes of people move to the new run."""
    before, run = place.content(), place.run()
    place.client.set_tag(run.info.run_id, "mlflow.note.content", "look at this")
    place.client.log_metric(run.info.run_id, "select.accuracy", 0.123)
    problem, remedy = place.mended()
    assert problem.startswith("metric select.accuracy is 0.123, not 0.")
    assert remedy.startswith("made anew, because MLflow cannot change what was logged")
    assert place.content() == before
    new = place.run()
    assert new.info.run_id != run.info.run_id
    assert new.data.tags["mlflow.note.content"] == "look at this"
    assert place.client.get_run(run.info.run_id).info.lifecycle_stage == "deleted"


@pytest.mark.slow
def test_a_point_added_to_a_curve_makes_the_run_anew(place: Place) -> None:
    before, run = place.content(), place.run()
    place.client.log_metric(run.info.run_id, "loss", 0.5, step=3)
    assert place.mended()[0] == "metric loss has 1 point(s) that are not the trial's"
    assert place.content() == before


@pytest.mark.slow
def test_a_param_changed_in_the_database_makes_the_run_anew(place: Place) -> None:
    before, run = place.content(), place.run()
    asked = "UPDATE params SET value = '9' WHERE run_uuid = ? AND key = 'recipe.learning_rate'"
    edit(place, asked, run.info.run_id)
    assert place.mended()[0] == "param recipe.learning_rate is '9', not '0.001'"
    assert place.content() == before


@pytest.mark.parametrize(
    ("table", "key", "problem"),
    [
        ("params", "seed", "param seed is missing"),
        ("latest_metrics", "sparsity", "metric sparsity is missing"),
    ],
)
def test_what_is_missing_is_added(place: Place, table: str, key: str, problem: str) -> None:
    before, run = place.content(), place.run()
    edit(place, f"DELETE FROM {table} WHERE run_uuid = ? AND key = ?", run.info.run_id, key)
    if table == "latest_metrics":
        edit(place, "DELETE FROM metrics WHERE run_uuid = ? AND key = ?", run.info.run_id, key)
    assert place.mended() == (problem, "mended")
    assert place.content() == before
    assert place.run().info.run_id == run.info.run_id


@pytest.mark.parametrize("name", [pytest.param("lineage.json", marks=pytest.mark.slow), "mask"])
def test_a_lost_file_is_copied_again(place: Place, name: str) -> None:
    run = place.run()
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    path = folder / name if name.endswith("json") else next((folder / "masks").iterdir())
    data = path.read_bytes()
    path.unlink()
    assert place.mended() == (f"file {path.relative_to(folder)} is missing", "mended")
    path.write_bytes(b"short")
    wrong = f"file {path.relative_to(folder)} has 5 bytes, not {len(data)}"
    assert place.mended() == (wrong, "mended")
    path.write_bytes(data[::-1])
    wrong = f"file {path.relative_to(folder)} has another content"
    assert place.mended() == (wrong, "mended")
    assert path.read_bytes() == data


def test_a_deleted_run_is_restored(place: Place) -> None:
    before, run = place.content(), place.run()
    place.client.delete_run(run.info.run_id)
    assert place.mended() == ("its run was deleted", "restored")
    assert place.run().info.run_id == run.info.run_id
    assert place.content() == before


@pytest.mark.slow
def test_a_deleted_run_that_lacks_something_is_completed(place: Place) -> None:
    before, run = place.content(), place.run()
    place.client.delete_tag(run.info.run_id, "metric")
    place.client.delete_run(run.info.run_id)
    assert place.mended() == (
        "its run was deleted; tag metric is missing",
        "restored and completed",
    )
    assert place.content() == before


@pytest.mark.slow
def test_a_deleted_run_that_says_otherwise_is_made_anew(place: Place) -> None:
    before, run = place.content(), place.run()
    place.client.log_metric(run.info.run_id, "score", 7.0)
    place.client.delete_run(run.info.run_id)
    problem, remedy = place.mended()
    assert problem.startswith("its run was deleted, and says otherwise: metric score is 7.0, not")
    assert remedy.startswith("made anew")
    assert place.content() == before


@pytest.mark.slow
def test_a_run_that_is_gone_for_good_is_made(place: Place) -> None:
    """As after 'mlflow gc'; found by the tag that is missing with it."""
    before, run = place.content(), place.run()
    edit(place, "DELETE FROM tags WHERE run_uuid = ? AND key = 'trial_key'", run.info.run_id)
    assert place.mended() == ("its run is missing", "made")
    place.client.delete_run(run.info.run_id)
    assert place.content() == before


@pytest.mark.slow
def test_a_run_that_is_there_twice_is_there_once(place: Place) -> None:
    before, run = place.content(), place.run()
    tags = dict(run.data.tags)
    place.client.create_run(run.info.experiment_id, 1, tags, run.info.run_name)
    assert place.mended() == ("its run is there 2 times", "copies moved to MLflow's trash")
    assert place.content() == before
    assert place.run().info.run_id == run.info.run_id


def test_foreign_runs_are_left_alone(place: Place) -> None:
    """Also one that carries a trial's key, and what people added to ours."""
    run = place.run()
    tags = {"trial_key": run.data.tags["trial_key"]}
    own = place.client.create_run(run.info.experiment_id, tags=tags).info.run_id
    place.client.log_metric(run.info.run_id, "mine", 1.0)
    place.client.set_tag(run.info.run_id, "reviewed", "yes")
    place.client.create_run(run.info.experiment_id, tags={"kind": "sweep"})
    assert place.sync().entries == ()
    assert place.client.get_run(own).info.status == "RUNNING"


def test_a_trial_of_two_sweeps_keeps_the_run_of_one(place: Place) -> None:
    """The other sweep's tags are no fault; values are compared all the same."""
    client, run = place.client, place.run()
    number = run.info.experiment_id
    tags = {"kind": "sweep", "sweep": "t", "sweep_hash": "x"}
    parent = client.create_run(number, tags=tags).info.run_id
    client.set_tag(run.info.run_id, "sweep", "t")
    client.set_tag(run.info.run_id, "mlflow.parentRunId", parent)
    client.set_tag(run.info.run_id, "roles", "another")
    assert place.check().entries == ()
    client.set_tag(run.info.run_id, "host", "elsewhere")
    (entry,) = place.check().entries
    assert entry.problem == "tag host is 'elsewhere', not 'localhost'"


def test_verdicts_are_written_anew(place: Place) -> None:
    before = place.content()
    for index, condition in enumerate(["tags.rule = 'strict'", "tags.rule = 'noninferior'"]):
        run = place.run(0, f"tags.kind = 'verdict' and {condition}")
        if index:
            place.client.set_tag(run.info.run_id, "matching", "maybe")
        else:
            place.client.delete_run(run.info.run_id)
    problem, remedy = place.mended()
    assert problem == "1 missing, 1 changed or there twice"
    assert remedy == "written anew; the old ones are withdrawn"
    assert place.content() == before


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


def test_a_sweep_whose_last_trials_were_cancelled_has_ended(place: Place, tmp_path: Path) -> None:
    """Nobody will run them, so verdicts are looked at; after a Ctrl-C somebody will."""
    final = next(trial for trial in place.context.trials if trial.kind == "final")
    results = place.root / "s-store" / "results" / final.key
    path = place.context.journal_path
    shutil.move(results, tmp_path / "kept")
    try:
        assert not place.check().has_verdicts
        for event, has_ended in (("cancelled", False), ("given_up", True)):
            with Journal.open(path, place.context.info, 1.0) as journal:
                journal.rebuild(TrialGraph(place.context.trials), place.store, 1.0)
                state, payload = TrialState.CANCELLED, {"cause": final.key}
                journal.record([Transition(final.key, state, event, payload=payload)], 2.0)
                journal.end(3.0)
            assert place.check().has_verdicts == has_ended
    finally:
        shutil.rmtree(path.parent)
        shutil.move(tmp_path / "kept", results)


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


@pytest.mark.slow
def test_the_sweeps_own_run_is_there_once(place: Place) -> None:
    """A copy counts for nothing, and no trial is said to belong to another run."""
    before, run = place.content(), place.run(0, "tags.kind = 'sweep'")
    tags = {name: run.data.tags[name] for name in ("kind", "sweep", "sweep_hash")}
    place.client.create_run(run.info.experiment_id, tags=tags)
    assert place.mended() == ("is there 2 times", "copies moved to MLflow's trash")
    assert place.content() == before


@pytest.mark.slow
def test_the_sweeps_own_run_is_restored_with_its_state(place: Place) -> None:
    run = place.run(0, "tags.kind = 'sweep'")
    place.client.delete_run(run.info.run_id)
    (foretold,) = place.check().entries[:1]
    assert foretold.problem == "is missing" and foretold.remedy == "restored or made"
    (entry,) = place.sync().entries
    assert (entry.problem, entry.remedy) == ("was deleted", "restored")
    place.client.update_run(run.info.run_id, "RUNNING")
    assert place.mended() == ("its status is RUNNING, not FINISHED", "mended")
    assert place.run(0, "tags.kind = 'sweep'").info.run_id == run.info.run_id


@pytest.mark.slow
def test_an_experiment_that_is_gone_is_made_with_all_it_held(place: Place) -> None:
    before = place.content()
    place.client.rename_experiment(place.run().info.experiment_id, "moved away")
    (foretold,) = place.check().entries
    assert (foretold.problem, foretold.remedy) == ("is missing", "made, with all its runs")
    entries = place.sync().entries
    assert entries[0].problem == "is missing"
    assert place.sync().entries == ()
    assert place.content() == [run for run in before if run["tags"]["kind"] != "ticket"]


def test_checking_writes_nothing(place: Place) -> None:
    place.client.delete_run(place.run().info.run_id)
    place.client.set_tag(place.run().info.run_id, "task", "other")
    number = place.run().info.experiment_id
    before = place.client.search_runs([number], run_view_type=ViewType.ALL)
    assert len(place.check().entries) == 2
    after = place.client.search_runs([number], run_view_type=ViewType.ALL)
    assert [run.to_dictionary() for run in after] == [run.to_dictionary() for run in before]


@pytest.mark.slow
def test_a_mask_that_cannot_be_read_leaves_the_rest_mended(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one is told with its reason; the command ends with 1."""
    for index in (0, 1):
        place.client.delete_tag(place.run(index).info.run_id, "task")
    worst = place.run(0).data.tags["trial_key"]
    from orchestrator import tracking
    from search_spaces.errors import UserError

    write = tracking.write_files

    def fail(*arguments: Any) -> None:
        if arguments[2].key == worst:
            raise UserError("the disk is full.")
        write(*arguments)

    monkeypatch.setattr(tracking, "write_files", fail)
    report = place.sync()
    assert (len(report.entries), report.num_left) == (2, 1)
    (left,) = [entry for entry in report.entries if entry.is_left]
    assert left.remedy == "not mended: the disk is full."


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
