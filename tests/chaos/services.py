"""What a sweep runs on: a real Ray cluster of several nodes, and a real MLflow server."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Self

from tests.chaos.processes import Found, Program, free_port, listens, wait_for

RANK = "ray::Rank"
_NUM_TRIES = 3
_OBJECT_STORE_BYTES = 80_000_000
_STARTED = b"Ray runtime started"
_START = ("-c", "from ray.scripts.scripts import main; main()", "start", "--block")


class RayCluster:
    """A head and one more node, each with one CPU, both started by ``ray start``.

    Ports, temporary folder and token are its own. The head begins when it is entered.

    Args:
        logs: Folder for what the nodes say.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._folder = Path(tempfile.mkdtemp(prefix="tk", dir="/tmp"))  # sockets' paths are short
        (self._folder / "token").write_text(secrets.token_hex(32))
        self._port = free_port()
        self.head: Program | None = None
        self._num_started = 0
        self.node: Program | None = None

    @property
    def address(self) -> str:
        """``host:port`` of the head."""
        return f"127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """What nodes and users of the cluster need to know."""
        return {
            "HOME": str(self._folder),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "30",  # not 60: nobody brings it back
            "RAY_raylet_start_wait_time_s": "120",  # the machine may be busy
        }

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def restart(self) -> None:
        """Start head and node anew, whatever has become of those before."""
        self._end()
        self._begin()
        self.complete()

    def complete(self) -> None:
        """Wait for the head, add the node, and wait for it."""
        assert self.head
        for _ in range(_NUM_TRIES - 1):
            if _has_started(self.head):
                break
            self._end()
            self._begin()
        assert _has_started(self.head), f"Ray's head did not start; see {self.head.log}"
        self.node = self._new_node()
        self.wait()

    def wait(self) -> None:
        """Wait until the node has joined."""
        assert self.node
        for _ in range(_NUM_TRIES - 1):
            if _has_started(self.node):
                return
            self.replace_node()
        assert _has_started(self.node), f"a Ray node did not start; see {self.node.log}"

    def replace_node(self) -> None:
        """Start another node in place of the one that is gone; it joins by and by."""
        assert self.node
        self.node.close()
        self.node = self._new_node()

    def ranks(self) -> list[Found]:
        """Return the ranks that live, on both nodes."""
        return [rank for program in self._programs for rank in program.named(RANK)]

    def close(self) -> None:
        """End everything, and leave nothing on the disk; may be called twice."""
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self) -> None:
        for program in self._programs:
            program.close()
        self.head = self.node = None

    def _begin(self) -> None:
        self._port = free_port()
        self.head = self._run(
            "--head",
            f"--port={self._port}",
            f"--ray-client-server-port={free_port()}",
            "--include-dashboard=false",
            f"--temp-dir={self._folder}",
        )

    def _new_node(self) -> Program:
        return self._run(f"--address={self.address}")

    @property
    def _programs(self) -> list[Program]:
        return [program for program in (self.head, self.node) if program]

    def _run(self, *options: str) -> Program:
        common = (
            "--num-cpus=1",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--dashboard-agent-listen-port=0",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
        )
        self._num_started += 1
        log = self._logs / f"ray{self._num_started}.log"
        return Program([*_START, *options, *common], log, self.environment)


def _has_started(node: Program) -> bool:
    """Wait until Ray says that a node runs, or gives up, as it does on a machine that is busy."""
    wait_for(lambda: node.code is not None or _STARTED in node.log.read_bytes(), f"see {node.log}")
    return _STARTED in node.log.read_bytes()


class TrackingServer:
    """An MLflow server over a SQLite database, which outlives the server; begins when entered.

    Args:
        folder: Gets database, artifacts and log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._program: Program | None = None

    @property
    def uri(self) -> str:
        """Where it listens, also while it is down."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def database(self) -> str:
        """What it serves, to look at behind its back."""
        return f"sqlite:///{self._folder}/mlflow.db"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; it answers by and by."""
        options = [
            f"--backend-store-uri={self.database}",
            f"--artifacts-destination={self._folder}/artifacts",
            "--host=127.0.0.1",
            f"--port={self._port}",
            "--workers=1",
        ]
        environment = {
            "HOME": str(self._folder),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # starts further processes
        }
        self._program = Program(
            ["-m", "mlflow", "server", *options], self._folder / "mlflow.log", environment
        )

    def wait(self) -> None:
        """Wait until it answers."""
        wait_for(lambda: listens("127.0.0.1", self._port), "the MLflow server")

    def stop(self) -> None:
        """Kill all of its processes; may be called twice."""
        if self._program:
            self._program.close()
