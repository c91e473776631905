"""Real clusters for tests: `ray start` with a token, on ports and in folders of their own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

PATIENCE_S = 300.0
_PR_SET_PDEATHSIG = 1  # of Linux
_REPOSITORY = Path(__file__).parents[2]


@dataclass
class Cluster:
    """A head with its nodes, and what it takes to reach it.

    Attributes:
        folder: Ray's files.
        gcs_port: Of the head.
        dashboard_port: Of the head.
        metrics_port: Where the head exports metrics.
        token_path: File with its token.
    """

    folder: Path
    gcs_port: int
    dashboard_port: int
    metrics_port: int
    token_path: Path
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """URL of its dashboard."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a program that uses the cluster, or is a node of it."""
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(self.folder / "home"),
            "PYTHONPATH": str(_REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_TMPDIR": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_metrics_report_interval_ms": "1000",
        }

    def start_head(self, *options: str) -> None:
        """Start the head and wait until it answers."""
        self._start(
            *options,
            f"--port={self.gcs_port}",
            "--node-ip-address=127.0.0.1",
            f"--dashboard-port={self.dashboard_port}",
            f"--metrics-export-port={self.metrics_port}",
            f"--ray-client-server-port={free_port()}",
            f"--temp-dir={self.folder}",
        )
        until(self._answers, "the head is up", self)

    def start_worker(self, *options: str) -> None:
        """Start one more node."""
        self._start(
            *options,
            f"--address=127.0.0.1:{self.gcs_port}",
            "--node-ip-address=127.0.0.1",
            f"--metrics-export-port={free_port()}",
        )

    def asked(self, path: str) -> Any:
        """Return what the dashboard answers to somebody with the token."""
        headers = {"Authorization": f"Bearer {self.token_path.read_text()}"}
        request = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    def listed(self, what: str) -> list[dict[str, Any]]:
        """Return the newest nodes, actors or tasks."""
        found = self.asked(f"/api/v0/{what}?limit=1000")["data"]["result"]["result"]
        return list(found)

    def num_nodes(self) -> int:
        """Return the number of living nodes."""
        return sum(node["state"] == "ALIVE" for node in self.listed("nodes"))

    def metrics(self) -> str:
        """Return what the head exports for Prometheus."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=20) as answer:
            text: str = answer.read().decode()
        return text

    def _answers(self) -> bool:
        try:
            return isinstance(self.asked("/api/jobs/"), list)
        except OSError:
            return False

    def _start(self, *options: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        agent = f"--dashboard-agent-listen-port={free_port()}"
        with open(self.folder / f"node{len(self.nodes)}.log", "wb") as log:
            node = subprocess.Popen(
                [*command, "--num-cpus=2", "--object-store-memory=100000000", agent],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self.nodes.append(node)

    def said(self) -> str:
        """Return what the nodes printed."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("node*.log")))

    def close(self) -> None:
        """End all of its processes, and nobody else's."""
        own: list[psutil.Process] = []
        for node in self.nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(node.pid)
                own += [*parent.children(recursive=True), parent]
        for node in reversed(self.nodes):
            node.terminate()
        psutil.wait_procs(own, timeout=5)
        for process in own:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)  # psutil knows a pid that is another's now
        psutil.wait_procs(own, timeout=5)


@contextlib.contextmanager
def bare_cluster() -> Iterator[Cluster]:
    """Yield a cluster that has no node yet; whatever is started ends with the context."""
    folder = Path(tempfile.mkdtemp(prefix="tk-", dir="/tmp"))  # short: sockets lie in it
    (folder / "home").mkdir()
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    cluster = Cluster(folder, free_port(), free_port(), free_port(), token)
    try:
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Yield a head with two CPUs on this machine's loopback."""
    with bare_cluster() as cluster:
        cluster.start_head("--head", "--dashboard-host=127.0.0.1")
        yield cluster


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent dies, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def until(condition: Callable[[], object], what: str, cluster: Cluster) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: It does not; tells what the nodes printed.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {PATIENCE_S:g} s: {what}\n{cluster.said()}")
        time.sleep(0.2)


def free_port() -> int:
    """Return a port that is free now, outside of the range that Ray's workers take."""
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        if not 10002 <= port <= 19999:
            return port


def run(
    cluster: Cluster, *arguments: str, cwd: Path, timeout_s: float = 300, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run ``tickets`` as a user of the cluster does; ``changes`` are variables, "" for none."""
    environment = {**cluster.environment, **changes}
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *arguments],
        cwd=cwd,
        env={name: value for name, value in environment.items() if value},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
