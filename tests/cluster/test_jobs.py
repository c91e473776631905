"""What a cluster's address is told about, and what is said when it is not one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster.jobs import Jobs
from search_spaces.errors import UserError
from tests.cluster.clusters import free_port

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
