"""A real MLflow server in a process of its own, and a proxy before it that breaks on request."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

_START_PATIENCE_S = 150.0
_ENV = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
Fault = Literal["pass", "500", "503", "refused", "lost", "late", "fatal"]
FAULTS: tuple[Fault, ...] = ("pass", "500", "503", "refused", "lost", "late")


class MlflowServer:
    """``mlflow server`` on SQLite, at one port for its whole life.

    Args:
        folder: Gets database and artifacts.
        template: A database that MLflow has made before: making one takes seconds.
    """

    def __init__(self, folder: Path, template: Path | None = None) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as held:
            self.port: int = held.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        if template is not None:
            shutil.copy(template, folder / "mlflow.db")
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers; what it held before is still there."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, cwd=self._folder, env=_ENV
            )
        deadline_s = time.monotonic() + _START_PATIENCE_S
        while not self._answers():
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                said = (self._folder / "server.log").read_text()[-2000:]
                raise RuntimeError(f"The MLflow server did not start: {said}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it and its workers with SIGKILL, whatever they are doing."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
        except OSError:
            return False
        return True


class FaultyProxy:
    """Passes requests on to a server; each takes the next fault of a schedule, if one is left.

    ``lost``: the request is carried out, but its answer never comes. ``late``: the answer does not
    come in time, and the request is carried out after that. ``refused``: it is not carried out.
    ``fatal``: it is carried out, and ``kill`` is called instead of an answer.

    Attributes:
        uri: Its own.
        faults: What is still to come.
        num_requests: How many there were.
        num_late: How many late ones are under way.
        is_down: Every request is answered with 503.
        kill: Ends the process that asks.
    """

    def __init__(self, port: int, late_s: float) -> None:
        self.faults: deque[Fault] = deque()
        self.num_requests = self.num_late = 0
        self.is_down = False
        self.kill: Callable[[], None] = lambda: None
        self._port, self._late_s = port, late_s
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Take no request any more."""
        self._server.shutdown()
        self._server.server_close()

    def break_next(self, faults: Iterable[Fault]) -> None:
        """Let the next requests meet these faults."""
        self.faults = deque(faults)

    def _next(self, path: str) -> Fault:
        self.num_requests += 1
        if self.is_down:
            return "503"
        with suppress(IndexError):
            return self.faults.popleft()
        return "pass"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                self.close_connection = True
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = proxy._next(self.path)
                if fault == "refused":
                    return
                if fault in ("500", "503"):
                    self.send_response(int(fault))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if fault == "late":
                    proxy.num_late += 1
                    time.sleep(proxy._late_s)
                status, headers, answer = self._ask(body)
                if fault == "late":
                    proxy.num_late -= 1
                if fault == "fatal":
                    proxy.kill()
                if fault == "pass":
                    self.send_response(status)
                    self.send_header("Content-Type", headers)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def _ask(self, body: bytes) -> tuple[int, str, bytes]:
                asked = http.client.HTTPConnection("127.0.0.1", proxy._port, timeout=60)
                passed = {"Content-Type": self.headers.get("Content-Type", "application/json")}
                asked.request(self.command, self.path, body, passed)
                answer = asked.getresponse()
                data = answer.read()
                asked.close()
                return answer.status, answer.getheader("Content-Type", "text/plain"), data

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        return Handler


@contextmanager
def running_server(folder: Path, template: Path | None = None) -> Iterator[MlflowServer]:
    """Yield a server that ends with the context."""
    server = MlflowServer(folder, template)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def proxied(server: MlflowServer, late_s: float = 6.0) -> Iterator[FaultyProxy]:
    """Yield a proxy before a server, without faults yet."""
    proxy = FaultyProxy(server.port, late_s)
    try:
        yield proxy
    finally:
        proxy.close()
