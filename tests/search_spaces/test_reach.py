"""A hub that does not answer is found out within seconds, once for all sources; a real server."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from search_spaces import reach
from search_spaces.datafiles import read_task
from search_spaces.errors import SpecError
from search_spaces.resolve import resolve_sweep
from search_spaces.sources import model_folder
from search_spaces.sweep import SweepSpec
from search_spaces.tasks import GlueHubSource

REVISION = "a" * 40


class Hub:
    """An endpoint that answers every request with one status; None = never."""

    def __init__(self, status: int | None) -> None:
        self.status, self.num_requests = status, 0
        hub, self._released = self, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.num_requests += 1
                if hub.status is None:
                    hub._released.wait()
                else:
                    self.send_response(hub.status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            do_GET = do_HEAD

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    reach.ask_anew()
    yield
    reach.ask_anew()


def point_at(monkeypatch: pytest.MonkeyPatch, uri: str, limit_s: float = 60) -> None:
    """Make an address the hub's, as HF_ENDPOINT does before the libraries are loaded."""
    from huggingface_hub import constants

    template = uri + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", uri)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", limit_s)


def closed_port() -> str:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def point_at_nothing(monkeypatch: pytest.MonkeyPatch) -> str:
    uri = closed_port()
    point_at(monkeypatch, uri)
    return uri


@pytest.fixture
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(request.param)
    point_at(monkeypatch, server.uri, 0.5 if request.param is None else 60)
    try:
        yield server
    finally:
        server.close()


def problem() -> str | None:
    fault = reach.hub_fault()
    return fault.problem if fault else None


@pytest.mark.parametrize("hub", [200, 302, 401, 404, 500], indirect=True)
def test_any_answer_is_one(hub: Hub) -> None:
    assert problem() is None
    assert problem() is None
    assert hub.num_requests == 1


@pytest.mark.parametrize("hub", [503], indirect=True)
def test_a_server_that_is_down_is_out_of_reach(hub: Hub) -> None:
    assert problem() == "is out of reach: it answers 503."


@pytest.mark.parametrize("hub", [None], indirect=True)
def test_a_server_that_never_answers_is_given_up_and_not_asked_again(hub: Hub) -> None:
    assert problem() == "is out of reach: no answer within 0.5 s."
    assert problem() == "is out of reach: no answer within 0.5 s."
    assert hub.num_requests <= 1


@pytest.mark.parametrize("hub", [503], indirect=True)
def test_a_no_is_not_for_ever(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker lives for days; what failed at a hub that answered makes it ask anew, too."""
    assert problem() is not None
    hub.status = 200
    assert problem() is not None
    monkeypatch.setattr(reach, "FORGET_S", 0.0)
    assert problem() is None
    hub.status = 503
    assert problem() is None
    reach.ask_anew()
    assert problem() is not None


def test_the_fault_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = point_at_nothing(monkeypatch)
    assert str(reach.hub_fault()) == (
        f"the hub, {uri}: is out of reach: [Errno 111] Connection refused. Check network, proxy "
        "and HF_ENDPOINT; or name local copies; or run the command once where the hub can be "
        "reached, and copy the cache, HF_HOME, from there."
    )


def test_an_environment_that_forbids_the_network_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "please unset the `HF_HUB_OFFLINE` environment variable" in str(problem())


def test_a_model_in_the_cache_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    point_at_nothing(monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--some--bert" / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert model_folder("some/bert", REVISION, "models[0]") == folder
    with pytest.raises(SpecError) as raised:
        model_folder("some/other", REVISION, "models[0]")
    first, second = raised.value.faults
    assert first == reach.hub_fault()
    assert str(second) == (
        "models[0]: source: is 'some/other', which is no folder here and not in the hub's local "
        "cache. Check name and network, or give a folder or 'package:<module>/<path>'."
    )


def write_cached(cache: Path, revision: str) -> None:
    """Write what the library leaves of RTE at a commit, train and validation."""
    from datasets import Dataset, DatasetInfo, SplitDict, SplitInfo
    from datasets.arrow_writer import ArrowWriter

    folder = cache / "nyu-mll___glue" / "rte" / "0.0.0" / revision
    folder.mkdir(parents=True)
    rows = Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "label": [0], "idx": [0]})
    splits = SplitDict(dataset_name="glue")
    for name in ("train", "validation"):
        with ArrowWriter(path=str(folder / f"glue-{name}.arrow"), schema=rows.data.schema) as out:
            out.write_table(rows.data.table)
            out.finalize()
        splits[name] = SplitInfo(name=name, num_bytes=1, num_examples=1, dataset_name="glue")
    info = DatasetInfo(
        dataset_name="glue", config_name="rte", version="0.0.0", features=rows.features
    )
    info.splits = splits
    info.write_to_directory(str(folder))


def test_data_in_the_cache_need_no_hub_but_must_be_of_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library itself takes its newest copy, of whatever commit that is."""
    import datasets.config

    point_at_nothing(monkeypatch)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    write_cached(tmp_path, REVISION)
    assert read_task(GlueHubSource(task="rte", revision=REVISION)).splits["train"].texts == ["a"]
    with pytest.raises(SpecError) as raised:
        read_task(GlueHubSource(task="rte", revision="b" * 40))
    assert {fault.problem for fault in raised.value.faults} == {
        f"the newest copy in the local cache is of {REVISION}, not of {'b' * 40}."
    }
    assert not datasets.config.HF_HUB_OFFLINE


@pytest.mark.parametrize("hub", [404], indirect=True)
def test_what_a_hub_does_not_have_is_no_fault_of_the_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets.config
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.uri)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(SpecError) as raised:
        model_folder("some/bert", REVISION, "models[0]")
    assert "out of reach" not in str(raised.value)
    assert "cannot be had from the hub: " in str(raised.value)
    with pytest.raises(SpecError) as raised:
        read_task(GlueHubSource(task="rte"))
    assert "out of reach" not in str(raised.value)
    assert "nyu-mll/glue/rte: cannot be loaded (split train): " in str(raised.value)


def sweep(names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": "away",
        "preset": "chen2020-code",
        "seeds": [1, 2],
        "models": [{"name": name, "source": f"some/{name}"} for name in ("base", "large")],
        "tasks": [{"name": name, "source": {"kind": "glue-hub", "task": name}} for name in names],
    }


def test_all_sources_are_told_at_once_and_the_hub_once_and_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets.config
    from huggingface_hub import constants

    uri = point_at_nothing(monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(SpecError) as raised:
        resolve_sweep(SweepSpec.model_validate(sweep(("rte", "mnli"))))
    places = [fault.place for fault in raised.value.faults]
    glue = "nyu-mll/glue"
    assert places[:4] == [f"the hub, {uri}", "model 'base'", "model 'large'", f"{glue}/rte"]
    assert len(places) == 1 + 2 + 2 + 3
    assert places.count(f"the hub, {uri}") == 1


def test_a_plan_without_a_network_ends_soon(tmp_path: Path) -> None:
    """HF_ENDPOINT leads to nothing; the client alone takes half a minute for each of 21 splits."""
    import yaml

    names = ("mnli", "qqp", "stsb", "wnli", "qnli", "mrpc", "rte", "sst2", "cola")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep(names)))
    uri = closed_port()
    code = "from orchestrator.cli import main; main()"
    away = {"HF_ENDPOINT": uri, "HF_HOME": str(tmp_path / "home")}
    root = str(Path(__file__).parents[2])
    found = subprocess.run(
        [sys.executable, "-c", code, "plan", "sweep.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | away | {"PYTHONPATH": root, "COLUMNS": "400"},
        timeout=200,
        check=False,
    )
    said = found.stdout + found.stderr
    assert found.returncode == 2, said
    assert said.count("is out of reach") == 1
    assert said.count("is not in the local cache") == 19
    assert said.count("not in the hub's local cache") == 2
