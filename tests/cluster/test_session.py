"""Joining a cluster: quickly, or with a message that helps."""

from __future__ import annotations

import importlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from cluster.session import Session, _short_temp_folder
from search_spaces.errors import UserError

MAX_REFUSAL_S = 15.0


@contextmanager
def _listener(answer: bytes | None) -> Iterator[str]:
    """Listen on a port of this machine and send ``answer`` to whoever connects."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        kept = []

        def serve() -> None:
            connection, _ = server.accept()
            kept.append(connection)
            if answer:
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        for connection in kept:
            connection.close()


def _refusal(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAY_ADDRESS", address)
    start_s = time.monotonic()
    with pytest.raises(UserError, match="RAY_ADDRESS") as caught, Session():
        pass
    assert time.monotonic() - start_s < MAX_REFUSAL_S
    assert address in str(caught.value)
    return str(caught.value)


class TestRefusals:
    def test_nothing_listens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A closed port is named at once; Ray itself would try for minutes."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        assert "No Ray cluster answers" in _refusal(address, monkeypatch)

    def test_no_name_at_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A slip in the host's name is told as a host that does not answer."""
        assert "No Ray cluster answers" in _refusal("head..example:6379", monkeypatch)

    def test_listener_is_silent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A port that accepts but never answers is given up after seconds."""
        with _listener(None) as address:
            assert "No Ray cluster answers" in _refusal(address, monkeypatch)

    def test_listener_is_no_ray_head(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A dashboard's port in place of the head's is recognised."""
        with _listener(b"HTTP/1.0 400 Bad Request\r\n\r\n") as address:
            assert "is not a Ray head" in _refusal(address, monkeypatch)

    @pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head", "h:p"])
    def test_address_of_another_form(self, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only host:port names a head."""
        assert "host:port" in _refusal(address, monkeypatch)


def test_long_temporary_folder_is_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's sockets need short paths: a long TMPDIR is replaced, a short one is kept."""
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert _short_temp_folder() is None
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 80)
    folder = _short_temp_folder()
    assert folder is not None and len(folder) < 40
    Path(folder).rmdir()


JOIN = """
import os, ray
from cluster.session import Session
from search_spaces.errors import UserError
try:
    with Session() as session:
        print("joined", session.description, session.is_multi_node)
        print("dashboard", session.dashboard_url)
    print("left", ray.is_initialized())
except UserError as error:
    print("refused", error)
"""

START_LOCAL = JOIN.replace("Session()", "Session('local')")

LOSE_A_RANK = """
from cluster.session import Session
from cluster.ray_executor import RayExecutor
from tests.cluster.scripted import ONE_RANK, export_rank, run, scripted_trial
with Session() as session:
    executor = RayExecutor(session, ONE_RANK, 1, None, scripted_trial, export_rank)
    print(run(executor, "exit:0").failure)
    run(executor, "return:")  # meanwhile Ray has had time to say more
    executor.close()
"""


def _join(script: str, environment: dict[str, str]) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.mark.ray
def test_local_ray_that_cannot_start(tmp_path: Path) -> None:
    """What keeps Ray from starting is said in one sentence, with what to change."""
    (tmp_path / "token").write_text("0" * 64)
    environment = {"RAY_TMPDIR": "/dev/null", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    said, noise = _join(START_LOCAL, environment)
    assert re.fullmatch(
        r"refused Ray cannot start on this machine: .*/dev/null.*RAY_TMPDIR.*RAY_ADDRESS.*\n", said
    )
    assert "Traceback" not in noise


@pytest.mark.ray
class TestNodesWithout:
    def test_seen_and_unseen_file(self, ray_session: Session, tmp_path: Path) -> None:
        """The nodes that do not see the file are named."""
        [node] = ray.nodes()
        assert ray_session.nodes_without(tmp_path) == []
        assert ray_session.nodes_without(tmp_path / "absent") == [node["NodeManagerAddress"]]

    def test_node_without_the_package(
        self, ray_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A node that cannot import what this process imports is named, with the remedy."""
        (tmp_path / "only_here.py").write_text("def exists(path): return True")
        monkeypatch.syspath_prepend(tmp_path)
        exists = importlib.import_module("only_here").exists
        monkeypatch.setattr("cluster.session._exists", exists)
        with pytest.raises(UserError, match=r"No module named 'only_here'.*Install the project"):
            ray_session.nodes_without(tmp_path)

    def test_node_that_does_not_answer(
        self, ray_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A silent node is named after a while, where waiting for it would never end."""
        monkeypatch.setattr("cluster.session._exists", lambda path: time.sleep(5))
        monkeypatch.setattr("cluster.session._LOOK_TIMEOUT_S", 0.5)
        address = ray.nodes()[0]["NodeManagerAddress"]
        with pytest.raises(UserError, match=f"{address} cannot run .*: no answer within 0.5 s"):
            ray_session.nodes_without(tmp_path)


@pytest.mark.ray
class TestOneCluster:
    def test_second_process_joins_and_leaves_it_running(self, ray_session: Session) -> None:
        """RAY_ADDRESS joins a cluster, prints nothing, and leaving does not stop it."""
        address = ray.get_runtime_context().gcs_address
        said, noise = _join(JOIN, {"RAY_ADDRESS": address})
        assert f"joined Ray cluster {address}: 1 node(s), 4 CPU(s), 0 GPU(s) False" in said
        assert f"dashboard {ray_session.dashboard_url}" in said
        assert "left False" in said
        assert noise == ""
        assert ray.nodes()[0]["Alive"]

    def test_wrong_token_is_refused(self, ray_session: Session, tmp_path: Path) -> None:
        """Without the cluster's token nobody joins, and the message says what to set."""
        (tmp_path / "token").write_text("0" * 64)
        start_s = time.monotonic()
        said, _ = _join(
            JOIN,
            {
                "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
                "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
            },
        )
        assert said.startswith("refused") and "RAY_AUTH_TOKEN_PATH" in said
        assert time.monotonic() - start_s < MAX_REFUSAL_S

    def test_death_of_a_rank_prints_nothing(self, ray_session: Session) -> None:
        """A death is an outcome; Ray's own message would tear the display and machine output."""
        said, noise = _join(LOSE_A_RANK, {"RAY_ADDRESS": ray.get_runtime_context().gcs_address})
        assert (said, noise) == ("infrastructure\n", "")

    def test_dashboard_is_on_loopback(self, ray_session: Session) -> None:
        """The dashboard of a local Ray is reachable from this machine only."""
        assert ray_session.dashboard_url is not None
        assert ray_session.dashboard_url.startswith("http://127.0.0.1:")

    def test_nested_session_ends_nothing(self, ray_session: Session) -> None:
        """A session in a process that is already connected uses that connection and keeps it."""
        with Session() as inner:
            assert inner.nodes == ray_session.nodes
        assert ray.is_initialized()
