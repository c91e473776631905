"""Runs a program of these tests that starts a Ray cluster of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LIMIT_S = 300


def run_program(name: str, *arguments: object, **variables: str) -> str:
    """Return what ``tests/cluster/<name>.py`` printed; its sockets' paths stay short.

    A cluster of several nodes cannot be started in a process that is connected to Ray already.
    ``{folder}`` in a variable is a new folder that is removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="tk", dir="/tmp", ignore_cleanup_errors=True) as short:
        (Path(short) / "ray").mkdir()
        given = {key: value.format(folder=short) for key, value in variables.items()}
        done = subprocess.run(
            [sys.executable, "-m", f"tests.cluster.{name}", *(str(one) for one in arguments)],
            env={**os.environ, "RAY_TMPDIR": short, "RAY_AUTH_MODE": "disabled", **given},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def told_by(name: str, *arguments: object, **variables: str) -> list[dict[str, Any]]:
    """Return the JSON objects that a program printed, one on a line."""
    lines = run_program(name, *arguments, **variables).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
