"""`tickets sync` on a real SQLite MLflow: whatever was done to a trial's run, it is put right."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType

from tests.orchestrator.mirrored import runs_of
from tests.orchestrator.mirrored_sweep import Place


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
