"""A real S3-compatible server on this machine, for the tests of the store."""

from __future__ import annotations

import os
import re
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from pyarrow import fs

_PATIENCE_S = 120.0
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def running_s3() -> Iterator[str]:
    """Yield the URI of a new bucket on a server of its own, which ends with the context."""
    pytest.importorskip("moto", reason="needs moto[s3]: pip install -c constraints.txt '.[dev]'")
    with tempfile.TemporaryFile("w+") as log, pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            options = f"endpoint_override=127.0.0.1:{_port(process, log.fileno())}&scheme=http"
            uri = f"s3://bucket?{options}&region=us-east-1&allow_bucket_creation=true"
            fs.FileSystem.from_uri(uri)[0].create_dir("bucket")
            yield uri
        finally:
            process.terminate()
            process.wait()


class Door:
    """A way to a server that can be shut and opened again, on the same port; open at first.

    While it is shut, connections are refused and those that there were are cut: what a server does
    that is started anew, but this one keeps what it has in memory.
    """

    def __init__(self, uri: str) -> None:
        self._target = int(uri.split("127.0.0.1:")[1].split("&")[0])
        self._connections: set[socket.socket] = set()
        self._port = 0
        self.open()
        self.uri = uri.replace(f":{self._target}&", f":{self._port}&")

    def open(self) -> None:
        """Let connections through."""
        door = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(("127.0.0.1", door._target)) as server:
                    door._connections |= {self.request, server}
                    back = threading.Thread(target=_pump, args=(server, self.request))
                    back.start()
                    _pump(self.request, server)
                    back.join()
                    door._connections -= {self.request, server}

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def shut(self) -> None:
        """Cut all connections and refuse new ones."""
        self._server.shutdown()
        for connection in tuple(self._connections):
            _cut(connection)
        self._server.server_close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    _cut(source)
    _cut(target)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _port(process: subprocess.Popen[bytes], log: int) -> str:
    """Return the port that a server said it listens on."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        said = os.pread(log, 10_000, 0).decode()
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", said):
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"the S3 server did not start: {os.pread(log, 10_000, 0).decode()}")
