"""What a cluster's address is told about, and what is said when it is not one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster import jobs
from cluster.jobs import JobOrder, Jobs
from search_spaces.errors import UserError
from tests.cluster.clusters import free_port
from tests.cluster.dashboards import bad_dashboard, job

TOKEN = "0123456789abcdef" * 4


@contextmanager
def _web_server(status: int, location: str = "") -> Iterator[tuple[str, list[str]]]:
    """Serve one answer on loopback; yield the URL and the Authorization headers that came."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)


def _said(url: str) -> str:
    with pytest.raises(UserError) as caught:
        Jobs(url)
    said = str(caught.value)
    assert said.startswith(f"--address {url}: ") and TOKEN not in said and "\n" not in said
    return said


def test_nothing_listens() -> None:
    """A closed port is named at once, with how to reach a head's loopback."""
    said = _said(f"http://127.0.0.1:{free_port()}")
    assert "no Ray dashboard answers" in said and "ssh -L" in said


@pytest.mark.parametrize("status", [200, 404, 500])
def test_another_web_server(status: int) -> None:
    """What answers without being a dashboard is recognised."""
    with _web_server(status) as (url, _):
        assert "is not a Ray dashboard" in _said(url)


def test_missing_and_foreign_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are told apart, with the same next step."""
    with _web_server(403) as (url, seen):
        assert "refuses the token, which is another cluster's" in _said(url)
        assert seen == [f"Bearer {TOKEN}"]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with _web_server(401) as (url, seen):
        assert "the cluster asks for a token. Set RAY_AUTH_TOKEN_PATH" in _said(url)
        assert seen == [""]


def test_token_is_not_passed_on() -> None:
    """A redirection to another server does not get the token."""
    with _web_server(200) as (other, seen), _web_server(302, other) as (url, _):
        assert "is not a Ray dashboard" in _said(url)
        assert seen == []


def test_no_name_at_all() -> None:
    """A slip in the host's name is told as a host that does not answer."""
    assert "no Ray dashboard answers" in _said("http://head..example:8265")


@pytest.mark.parametrize("version", [{}, [], {"ray_version": 7}, {"ray_version": "new"}])
def test_dashboard_of_another_form(version: object) -> None:
    """Answers that Ray's client cannot read end in one sentence."""
    with bad_dashboard() as dashboard:
        dashboard.version = version
        said = _said(dashboard.url)
    assert "its answers have another form" in said and "same version of Ray" in said


@pytest.mark.parametrize("answer", [{"data": {"result": None}}, [], {"result": False}])
def test_cluster_that_does_not_know_its_nodes(answer: object) -> None:
    """So does a question that a busy head answers without a list."""
    with bad_dashboard() as dashboard:
        known = Jobs(dashboard.url)
        dashboard.job = answer
        with pytest.raises(UserError, match="its answers have another form"):
            known.num_nodes()


def test_only_the_named_server_gets_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a proxy of the environment is asked, nor a password of ~/.netrc sent instead."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password pa55\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    with bad_dashboard() as dashboard:
        assert Jobs(dashboard.url).state("j").status == "RUNNING"
        assert set(dashboard.tokens) == {f"Bearer {TOKEN}"}


def test_head_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that takes the question and never answers is not waited for without end."""
    with bad_dashboard() as dashboard:
        known = Jobs(dashboard.url)
        dashboard.is_mute = True
        monkeypatch.setattr(jobs, "_TIMEOUT_S", 0.3)
        with pytest.raises(UserError, match=r"no Ray dashboard answers: .*timed out"):
            known.state("j")


def test_only_a_job_that_is_not_known_is_lost() -> None:
    """An error of the head that speaks of another thing's absence does not lose a running job."""
    with bad_dashboard() as dashboard:
        known = Jobs(dashboard.url)
        dashboard.status, dashboard.job = 404, "Job j does not exist"
        assert known.state("j").status == "LOST"
        dashboard.status, dashboard.job = 500, "The key of the job does not exist"
        with pytest.raises(UserError, match=r"the cluster refuses: .*status code 500"):
            known.state("j")
        dashboard.job = "Traceback:\n  File x\nValueError: j is taken.\n"
        with pytest.raises(UserError, match=r"the cluster refuses: ValueError: j is taken\. See"):
            known.state("j")


def test_a_cluster_that_has_just_begun_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its agent, which starts jobs, comes up after the dashboard; other refusals are final."""
    monkeypatch.setattr(jobs, "_RETRY_S", 0.05)
    order = JobOrder("j", "true", tmp_path, {})
    with bad_dashboard() as dashboard:
        known = Jobs(dashboard.url)
        dashboard.status, dashboard.job = 500, "No available agent to submit job, please try again"
        with pytest.raises(UserError, match="No available agent"):
            known.submit(order, patience_s=0.1)
        ready = {"job_id": "j", "submission_id": "j"}
        threading.Timer(0.5, lambda: vars(dashboard).update(status=200, job=ready)).start()
        assert known.submit(order) == "j"
        dashboard.status, dashboard.job = 500, "ValueError: j is taken."
        with pytest.raises(UserError, match="j is taken"):
            known.submit(order)


def test_follower_of_a_dead_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is sent nothing asks again: the end is seen, and the whole text shown, once."""
    monkeypatch.setattr(jobs, "_QUIET_S", 0.3)
    said: list[str] = []
    with bad_dashboard() as dashboard:
        dashboard.log = "first half\nsecond half\n"

        def write(text: str) -> None:
            said.append(text)
            dashboard.job = job("FAILED", 1)

        end = Jobs(dashboard.url).follow("j", write)
    assert end.exit_code == 1
    assert "".join(said) == "first half\nsecond half\n" and len(said) == 2


def test_follower_with_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a job for so long only gets its state in the end."""
    with bad_dashboard() as dashboard:
        end = Jobs(dashboard.url).follow("j", lambda text: None, limit_s=0.3)
    assert end.status == "RUNNING"


def test_follower_whose_reader_has_gone() -> None:
    """A closed pipe ends the following; it is no failure of the network to be tried again."""

    def write(text: str) -> None:
        raise BrokenPipeError

    with bad_dashboard() as dashboard:
        dashboard.log = "text"
        with pytest.raises(BrokenPipeError):
            Jobs(dashboard.url).follow("j", write)
