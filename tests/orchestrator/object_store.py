"""A real S3-compatible server on this machine, for the tests of the store."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pyarrow import fs

_PATIENCE_S = 120.0
_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def running_s3() -> Iterator[str]:
    """Yield the URI of a new bucket on a server of its own, which ends with the context."""
    pytest.importorskip("moto", reason="needs moto[s3]: pip install -c constraints.txt '.[dev]'")
    with tempfile.TemporaryFile("w+") as log, pytest.MonkeyPatch.context() as patch:
        for name, value in _SETTINGS.items():
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


def _port(process: subprocess.Popen[bytes], log: int) -> str:
    """Return the port that a server said it listens on."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        said = os.pread(log, 10_000, 0).decode()
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", said):
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"the S3 server did not start: {os.pread(log, 10_000, 0).decode()}")
