"""Real clusters for tests: `ray start` with a token, on ports and in folders of their own."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PATIENCE_S = 120.0
_REPOSITORY = Path(__file__).parents[2]


@dataclass
class Cluster:
    """A head that runs, and what it takes to reach it.

    Attributes:
        folder: Ray's files; short, since sockets lie in it.
        gcs: ``host:port`` of the head.
        url: Of its dashboard.
        metrics_url: Where the head exports metrics.
        token_path: File with its token.
    """

    folder: Path
    gcs: str
    url: str
    metrics_url: str
    token_path: Path
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

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

    def start_node(self, *options: str) -> None:
        """Start a head or worker that lives until the cluster ends."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        with open(self.folder / f"node{len(self.nodes)}.log", "wb") as log:
            node = subprocess.Popen(
                [*command, "--num-cpus=2", "--object-store-memory=100000000"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.nodes.append(node)

    def ask(self, path: str) -> int:
        """Return the status by which the dashboard answers to somebody with the token."""
        token = self.token_path.read_text()
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

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
def running_cluster(num_workers: int = 0) -> Iterator[Cluster]:
    """Yield a cluster of a head and some more nodes, all on this machine's loopback."""
    folder = Path(tempfile.mkdtemp(prefix="tk-", dir="/tmp"))
    (folder / "home").mkdir()
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    gcs, dashboard, metrics = free_port(), free_port(), free_port()
    cluster = Cluster(
        folder,
        f"127.0.0.1:{gcs}",
        f"http://127.0.0.1:{dashboard}",
        f"http://127.0.0.1:{metrics}/metrics",
        token,
    )
    try:
        cluster.start_node(
            "--head",
            f"--port={gcs}",
            "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
            f"--metrics-export-port={metrics}",
            f"--dashboard-agent-listen-port={free_port()}",
            f"--ray-client-server-port={free_port()}",
            f"--temp-dir={folder}",
        )
        until(lambda: _answers(cluster), "the head is up", cluster)
        for _ in range(num_workers):
            cluster.start_node(
                f"--address={cluster.gcs}",
                "--node-ip-address=127.0.0.1",
                f"--metrics-export-port={free_port()}",
                f"--dashboard-agent-listen-port={free_port()}",
            )
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(cluster: Cluster) -> bool:
    try:
        return cluster.ask("/api/jobs/") == 200
    except OSError:
        return False


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
    cluster: Cluster, *arguments: str, cwd: Path, timeout_s: float = 150, **changes: str
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
