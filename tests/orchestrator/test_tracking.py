"""The mirror in a real MLflow on SQLite: idempotent, complete, and quick to complain."""

from __future__ import annotations

import math
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import ViewType

from orchestrator import tracking, tracking_client
from orchestrator.queries import lineage
from orchestrator.store import Store
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_client import open_client, quoted, search_all
from orchestrator.tracking_sync import MirrorView, mend
from orchestrator.tracking_writer import fitted
from search_spaces.errors import UserError
from tests.orchestrator.factories import make_lineage, make_result
from tests.orchestrator.mirrored import committed_lineage, runs_of


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests of this file, below a folder that is not there yet."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/new/mlflow.db"


class Killed(BaseException):
    pass


def test_mirroring_twice_makes_no_run_twice(uri: str, tmp_path: Path) -> None:
    """One parent and one run per trial, however often and from however many processes."""
    store, trials, _ = committed_lineage(tmp_path)
    for _ in range(2):
        tracker = MlflowTracker(uri, "twice", "small", "hash")
        assert tracker.catch_up(trials, store) == 3
    runs = runs_of(uri, "twice")
    assert len(runs) == 4
    (parent,) = runs_of(uri, "twice", "tags.kind = 'sweep'")
    children = [run for run in runs if run.info.run_id != parent.info.run_id]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.data.tags["trial_key"] for run in children} == {trial.key for trial in trials}


def test_a_run_holds_what_people_rank_and_filter_by(uri: str, tmp_path: Path) -> None:
    """Scores by split, sparsity, losses by step, recipe, data and the chain back to dense."""
    store, trials, _ = committed_lineage(tmp_path)
    tracker = MlflowTracker(uri, "content", "small", "hash")
    client = MlflowClient(uri)
    run_id = [tracker.mirror(t, r, store) for t, r in zip(trials, _, strict=True)][-1]
    run = client.get_run(run_id)
    assert run.info.run_name == "round:toy:imp:r2:0.2:s0"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["select.accuracy"] == 0.9
    assert run.data.metrics["sparsity"] == 0.2
    assert run.data.metrics["num_removed"] == 200
    assert run.data.metrics["seconds.train"] == 2.0
    assert run.data.params["recipe.learning_rate"] == "0.0001"
    assert run.data.tags["parents"] == trials[1].key
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [
        (1, 0.7),
        (10, 0.3),
    ]
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("toy", "data")
    assert [item.path for item in client.list_artifacts(run_id)] == ["lineage.json"]


def test_a_finals_mask_lies_beside_its_run(uri: str, tmp_path: Path) -> None:
    """The mask file is the committed one, byte for byte."""
    store, trials, results = committed_lineage(tmp_path)
    role = trials[1].roles[0].model_copy(update={"kind": "final"})
    final = trials[1].model_copy(update={"roles": (role,)})
    run_id = MlflowTracker(uri, "masks", "small", "hash").mirror(final, results[1], store)
    name = "mask-global-magnitude-100.arrow"
    path = MlflowClient(uri).download_artifacts(run_id, f"masks/{name}", str(tmp_path))
    assert Path(path).read_bytes() == f"{trials[0].key} {name}".encode()


def test_a_half_written_run_is_completed(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies between two calls leaves a run that the next one finds and finishes."""
    store, trials, _ = committed_lineage(tmp_path)
    tracker = MlflowTracker(uri, "killed", "small", "hash")

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "write_content", die)
        with pytest.raises(Killed):
            tracker.catch_up(trials, store)
    assert [r.info.status for r in runs_of(uri, "killed", "tags.kind = 'round'")] == ["RUNNING"]
    MlflowTracker(uri, "killed", "small", "hash").catch_up(trials, store)
    rounds = runs_of(uri, "killed", "tags.kind = 'round'")
    assert [run.info.status for run in rounds] == ["FINISHED"] * 3
    assert all(run.data.metrics["loss"] == 0.3 for run in rounds)


def view_of(tracker: MlflowTracker, store: Store) -> MirrorView:
    place = tracker.experiment_id, tracker.sweep, tracker.parent_id
    return MirrorView(tracker.client, *place, store)


def test_a_run_that_tells_of_another_attempt_gives_way(uri: str, tmp_path: Path) -> None:
    """No curve has points of both, whichever is older; what people wrote goes on."""
    store, (trial, *_), (result, *_) = committed_lineage(tmp_path)
    tracker = MlflowTracker(uri, "attempts", "small", "hash")
    first = {"attempt": "a0", "losses": ((2, 0.9),), "started_at": "2030-01-01T00:00:00+00:00"}
    first |= {"resumed_at_step": 2, "restart_reason": "none"}
    old = tracker.mirror(trial, result.model_copy(update=first), store)
    told = tracker.client.get_run(old).data.tags
    assert (told["resumed_at_step"], told["restart_reason"]) == ("2", "none")
    tracker.client.set_tag(old, "mlflow.note.content", "look")
    new = tracker.mirror(trial, result, store)
    assert new != old and tracker.mirror(trial, result, store) == new
    (run,) = runs_of(uri, "attempts", "tags.trial_key != ''")
    assert run.data.tags["mlflow.note.content"] == "look"
    assert run.data.tags.keys().isdisjoint({"resumed_at_step", "restart_reason"})
    assert [point.step for point in tracker.client.get_metric_history(new, "loss")] == [1, 10]
    assert tracker.client.get_run(old).info.lifecycle_stage == "deleted"
    assert list(view_of(tracker, store).faults({trial.key: (trial, result)})) == []


def test_what_is_no_number_is_mirrored_once(uri: str, tmp_path: Path) -> None:
    """NaN is unlike itself, and databases have no infinity: neither is a fault for ever."""
    store, (trial, *_), (result, *_) = committed_lineage(tmp_path)
    seconds = {"total": math.inf, "train": -math.inf, "load": math.nan}
    strange = result.model_copy(update={"seconds": seconds, "losses": ((1, math.nan),)})
    tracker = MlflowTracker(uri, "no numbers", "small", "hash")
    tracker.mirror(trial, strange, store)
    assert list(view_of(tracker, store).faults({trial.key: (trial, strange)})) == []
    (fault,) = view_of(tracker, store).faults({trial.key: (trial, result)})
    assert "seconds.train is -1.797" in fault.problem


def test_a_damaged_mask_does_not_reach_mlflow(uri: str, tmp_path: Path) -> None:
    """The message says which file it is, and how the store gets a whole one."""
    store, trials, results = committed_lineage(tmp_path)
    role = trials[1].roles[0].model_copy(update={"kind": "final"})
    final = trials[1].model_copy(update={"roles": (role,)})
    (path,) = tmp_path.glob("store/results/*/attempts/*/mask-global-magnitude-100.arrow")
    path.write_bytes(path.read_bytes()[::-1])
    tracker = MlflowTracker(uri, "damaged", "small", "hash")
    with pytest.raises(UserError, match=r"magnitude-100.arrow of trial .* is damaged: .*'tickets"):
        tracker.mirror(final, results[1], store)
    (run,) = runs_of(uri, "damaged", "tags.kind = 'final'")
    assert run.info.status == "RUNNING"


def test_a_lineage_that_the_store_has_lost_stays_whole_in_mlflow(uri: str, tmp_path: Path) -> None:
    """Somebody made room in the store: what is left there is no reason to forget the rest."""
    store, trials, results = committed_lineage(tmp_path)
    tracker = MlflowTracker(uri, "forgotten", "small", "hash")
    tracker.catch_up(trials, store)
    shutil.rmtree(tmp_path / "store" / "results" / trials[0].key)
    found = {trials[2].key: (trials[2], results[2])}
    assert list(view_of(tracker, store).faults(found)) == []
    (run,) = runs_of(uri, "forgotten", f"tags.trial_key = '{trials[2].key}'")
    tracker.client.set_tag(run.info.run_id, "task", "other")
    (fault,) = view_of(tracker, store).faults(found)
    mend(tracker, store, fault)
    assert len(lineage(uri, "forgotten", trials[2].key)) == 3


class Growing(MlflowClient):
    """A client of an experiment in which somebody else begins a run before every page."""

    def search_runs(self, experiment_ids: list[str], *arguments: object, **options: object) -> Any:
        self.create_run(experiment_ids[0], tags={"kind": "other"})
        return super().search_runs(experiment_ids, *arguments, **options)


def test_runs_that_begin_between_two_pages_make_none_a_copy(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is met on two pages would be taken for its own copy, and deleted."""
    store, trials, _ = committed_lineage(tmp_path)
    tracker = MlflowTracker(uri, "pages", "small", "hash")
    tracker.catch_up(trials, store)
    monkeypatch.setattr(tracking_client, "_PAGE", 2)
    pages = list[None]()
    client, number = Growing(uri), tracker.experiment_id
    found = search_all(client, number, "tags.kind != ''", on_page=lambda: pages.append(None))
    ids = [run.info.run_id for run in found]
    assert len(pages) > 2 and len(set(ids)) == len(ids)
    assert set(ids) >= {run.info.run_id for run in runs_of(uri, "pages", "tags.kind = 'round'")}
    assert search_all(client, number, "tags.kind = 'round'", ViewType.DELETED_ONLY) == []


@given(st.lists(st.text("0a,", max_size=2000), max_size=5).map(",".join))
def test_a_long_tag_ends_with_a_whole_entry(value: str) -> None:
    cut = fitted({"tag": value})["tag"]
    assert value.startswith(cut) and len(cut) <= 5000
    assert cut == value or len(value) > 5000
    if cut != value and "," in value[:5001]:
        assert value[len(cut)] == ","


def test_a_dead_server_is_refused_within_seconds() -> None:
    """The message names the URI and the next step."""
    with socket.socket() as held:  # bound but not listening: every connection is refused
        held.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{held.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(UserError, match=rf"MLflow at '{dead}' does not answer.*Start the"):
            MlflowTracker(dead, "x", "small", "hash")
        assert time.monotonic() - started < 10


def test_a_silent_server_is_refused_in_time() -> None:
    """A server that accepts and says nothing is as dead as none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match="does not answer: timed out"):
            open_client(silent, timeout_s=0.5)


@pytest.mark.parametrize("folder", ["mlruns", "file:///mlruns"])
def test_a_folder_is_refused_with_advice(folder: str) -> None:
    with pytest.raises(UserError, match=rf"'{folder}' is a folder.*Write 'sqlite:///mlflow.db'"):
        open_client(folder)


def test_an_unknown_kind_of_uri_is_refused() -> None:
    with pytest.raises(UserError, match="'bogus://x', but must begin with one of"):
        open_client("bogus://x")


def test_a_database_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be made: .*Name a place where you may write"):
        open_client(f"sqlite:///{tmp_path}/file/below/m.db")


def test_filters_quote_what_can_be_quoted() -> None:
    assert (quoted("a"), quoted("it's")) == ("'a'", '"it\'s"')
    with pytest.raises(UserError, match="holds both"):
        quoted("'\"")


def test_without_a_store_no_file_is_copied(uri: str) -> None:
    """Scores alone can be mirrored: lineage and masks need the store."""
    trial = make_lineage()[0]
    run_id = MlflowTracker(uri, "bare", "small", "hash").mirror(trial, make_result(trial, "a1"))
    assert MlflowClient(uri).list_artifacts(run_id) == []
