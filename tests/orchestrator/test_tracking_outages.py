"""A real MLflow server that dies, refuses, and loses answers: what is in it then is exact."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.mirror_lag import describe_lag, lag_path, read_lag
from orchestrator.store import Store
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_listener import TrackingListener
from orchestrator.tracking_sync import MirrorView, mend
from tests.orchestrator.factories import finish, make_lineage
from tests.orchestrator.mirror_stage import PATIENCE_S, Stage, tell, wait_until, world_of
from tests.orchestrator.mirrored import outcome
from tests.orchestrator.mlflow_server import FAULTS, Fault, proxied, running_server
from tests.orchestrator.small_worlds import make_sweep


def mirror_alone(uri: str, experiment: str, store: str) -> None:
    """Mirror all, in a process that has nothing but the store."""
    world = world_of(Store(store))
    tracker = MlflowTracker(uri, experiment, "small", "hash", 60)
    listener = TrackingListener(tracker, make_sweep(), world[0], lambda _: None, pause_s=0.1)
    tell(listener, world)
    listener.close(PATIENCE_S)


@pytest.fixture(scope="module")
def stage(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One server for all tests of this file: it takes seconds to start."""
    folder = tmp_path_factory.mktemp("server")
    store = Store(str(folder / "store"))
    for trial in make_lineage(num_rounds=2):
        store.commit(finish(store.uri, trial, "a1"), trial.spec)
    world = world_of(store)
    with running_server(folder, empty_database) as server, proxied(server) as proxy:
        yield Stage(folder, server, proxy, world)


@pytest.fixture(scope="module")
def wanted(stage: Stage) -> list[dict[str, Any]]:
    """What an undisturbed mirror makes."""
    assert stage.mirror("undisturbed", stage.server.uri)
    content = stage.content("undisturbed")
    assert len(content) == 1 + len(stage.world[1]) + 2 * 5
    return content


def test_mirroring_takes_few_requests_a_trial(stage: Stage) -> None:
    """Losses, values, params and tags of a trial travel together: they are no request each."""
    tracker = MlflowTracker(stage.proxy.uri, "counted", "small", "hash", 60)
    before = stage.proxy.num_requests
    tracker.catch_up(stage.world[1][:2], stage.world[0])
    # To look for it, to make it, values, data, where files go, the lineage, the end.
    assert stage.proxy.num_requests - before <= 2 * 7


def test_a_file_on_a_server_is_read_where_that_is_asked_for(stage: Stage) -> None:
    """A file of the right size with another content is found, and only then."""
    tracker = MlflowTracker(stage.server.uri, "contents", "small", "hash", 60)
    store, (trial, *_), (result, *_) = stage.world
    run_id = tracker.mirror(trial, result, store)
    path = stage.folder / "artifacts" / tracker.experiment_id / run_id / "artifacts/lineage.json"
    data = path.read_bytes()
    path.write_bytes(data[::-1])
    place = tracker.client, tracker.experiment_id, "small", tracker.parent_id, store
    found = {trial.key: (trial, result)}
    assert list(MirrorView(*place, reads_files=False).faults(found)) == []
    (fault,) = MirrorView(*place, reads_files=True).faults(found)
    assert (fault.problem, fault.remedy) == ("file lineage.json has another content", "mended")
    mend(tracker, store, fault)
    assert path.read_bytes() == data


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "503", "refused", "lost"])
def test_every_single_request_may_fail(
    stage: Stage, wanted: list[dict[str, Any]], fault: Fault
) -> None:
    """Each third request fails in one way, from the first on; the content is that of a quiet day.

    The lost answer to a request that made a run is the one that would make it twice.
    """
    experiment = f"each third {fault}"
    schedule: list[Fault] = [fault, "pass", "pass"] * 40
    stage.proxy.break_next(schedule)
    wait_until(lambda: stage.mirror(experiment), "the mirror never got to its end")
    stage.proxy.break_next([])
    assert stage.content(experiment) == wanted


def check_schedule(stage: Stage, wanted: list[dict[str, Any]], schedule: list[Fault]) -> None:
    experiment = uuid.uuid4().hex
    stage.proxy.break_next(schedule)
    wait_until(lambda: stage.mirror(experiment), "the mirror never got to its end")
    stage.proxy.break_next([])
    if "late" in schedule:  # what comes after the end is found by whoever looks next
        wait_until(lambda: not stage.proxy.num_late, "late requests never ended")
        assert stage.mirror(experiment)
    assert stage.content(experiment) == wanted


QUICK = [fault for fault in FAULTS if fault != "late"]
_PROPERTY = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@settings(_PROPERTY, max_examples=2)
@given(st.lists(st.sampled_from(QUICK), min_size=20, max_size=80))
def test_any_schedule_of_faults_ends_with_the_same_content(
    stage: Stage, wanted: list[dict[str, Any]], schedule: list[Fault]
) -> None:
    check_schedule(stage, wanted, schedule)


@pytest.mark.slow
@settings(_PROPERTY, max_examples=8)
@given(st.lists(st.sampled_from(QUICK), min_size=30, max_size=160))
def test_many_schedules_of_faults_end_with_the_same_content(
    stage: Stage, wanted: list[dict[str, Any]], schedule: list[Fault]
) -> None:
    check_schedule(stage, wanted, schedule)


@pytest.mark.slow
def test_requests_that_come_through_late_make_nothing_twice(
    stage: Stage, wanted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has given up and asked again when they are carried out."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
    schedule: list[Fault] = ["pass", "pass", "pass", "late", "pass", "pass", "late", *["pass"] * 4]
    check_schedule(stage, wanted, schedule * 3)


def test_an_outage_is_said_once_shown_and_caught_up_with(
    stage: Stage, wanted: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The sweep is never held up; how far MLflow is behind can be read all the while."""
    said, path = list[str](), lag_path(tmp_path / "journal.sqlite")
    listener = stage.listener("outage", say=said.append, lag_path=path)
    stage.proxy.is_down = True
    try:
        for trial, result in zip(*stage.world[1:], strict=True):
            listener.succeeded(trial, result)
        wait_until(lambda: (lag := read_lag(path)) and lag.failing_since, "no failure is noted")
        lag = read_lag(path)
        assert lag is not None
        assert (lag.num_mirrored, lag.num_behind) == (0, len(stage.world[1]))
        assert lag.behind_s(time.time()) > 0
        assert "behind; it has been failing for" in describe_lag(lag, time.time())
    finally:
        stage.proxy.is_down = False
    wait_until(lambda: (lag := read_lag(path)) and not lag.num_behind, "it never caught up")
    listener.finished(outcome(len(stage.world[1])))
    assert listener.close(PATIENCE_S)
    assert len(said) == 1
    assert "failed" in said[0] and "The sweep goes on; the mirror is tried again." in said[0]
    lag = read_lag(path)
    assert lag is not None
    num = len(stage.world[1])
    assert describe_lag(lag, time.time()) == f"MLflow has all {num} committed trials."
    assert stage.content("outage") == wanted


def test_telling_the_mirror_never_waits_for_a_server_that_hangs(stage: Stage) -> None:
    """Ten thousand results are handed over while the first request has no answer yet."""
    release = threading.Event()
    listener = stage.listener("hangs", stage.server.uri)
    listener._tracker.mirror = lambda *_: release.wait()  # type: ignore[method-assign]
    trial, result = stage.world[1][0], stage.world[2][0]
    begun_s = time.monotonic()
    for _ in range(10_000):
        listener.succeeded(trial, result)
    assert time.monotonic() - begun_s < 30
    release.set()
    listener.finished(outcome(1))
    listener.close(PATIENCE_S)


@pytest.mark.slow
def test_a_server_killed_in_the_middle_is_caught_up_with(
    stage: Stage, wanted: list[dict[str, Any]]
) -> None:
    """SIGKILL while runs are written, and a restart; the mirror needs no help."""
    said = list[str]()
    listener = stage.listener("killed", stage.server.uri, say=said.append)
    begun = threading.Event()
    mirror = listener._tracker.mirror

    def noticed(*arguments: Any) -> str:
        begun.set()
        return mirror(*arguments)

    listener._tracker.mirror = noticed  # type: ignore[method-assign]
    for trial, result in zip(*stage.world[1:], strict=True):
        listener.succeeded(trial, result)
    assert begun.wait(PATIENCE_S)
    stage.server.kill()
    wait_until(lambda: said, "nobody was told")
    stage.server.start()
    listener.finished(outcome(len(stage.world[1])))
    assert listener.close(PATIENCE_S)
    assert len(said) == 1
    assert stage.content("killed") == wanted


@pytest.mark.slow
def test_a_driver_killed_at_any_request_is_taken_up_by_the_next(
    stage: Stage, wanted: list[dict[str, Any]]
) -> None:
    """SIGKILL while MLflow does what it was last asked for: run, values, files, verdicts."""
    code = f"from {__name__} import mirror_alone; import sys; mirror_alone(*sys.argv[1:])"
    for num_before in (1, 4, 9, 60):
        experiment = f"killed after {num_before}"
        stage.proxy.break_next([*["pass"] * num_before, "fatal"])
        command = [sys.executable, "-c", code, stage.proxy.uri, experiment, stage.world[0].uri]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        stage.proxy.kill = process.kill
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
        assert stage.mirror(experiment)
        assert stage.content(experiment) == wanted
