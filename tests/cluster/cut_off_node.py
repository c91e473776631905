"""Cuts a node of a real cluster off its network while a trial runs there; a program of its own.

Prints one JSON line that says what came of it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from cluster.ray_executor import RayExecutor
from cluster.session import Session
from orchestrator.store import Store
from search_spaces.contracts import Outcome, Reporter, Succeeded, TrialRequest, TrialResult
from search_spaces.trial import Trial
from tests.chaos.processes import Program, free_port, wait_for
from tests.cluster.hosts import Hosts
from tests.cluster.scripted import ONE_RANK, eventually, export_rank, make_request
from tests.orchestrator.factories import finish, make_trial

TRIAL: Trial = make_trial(prunes=(100,))
_START = ("-c", "from ray.scripts.scripts import main; main()", "start", "--block")
_COMMON = (
    "--min-worker-port=0",
    "--max-worker-port=0",
    "--dashboard-agent-listen-port=0",
    "--object-store-memory=80000000",
)
_STARTED = b"Ray runtime started"


def patient_trial(request: TrialRequest, reporter: Reporter) -> TrialResult:
    """Wait for the gate ``<attempt>.go``, leave a mask, and try to commit it from here.

    Only drivers commit. A rank that does, wherever it has been, is the worst there can be.
    """
    folder = Path(request.cache_folder)
    (folder / f"{request.attempt}.pid").write_text(str(os.getpid()))
    while not (folder / f"{request.attempt}.go").exists():
        time.sleep(0.05)
    store = Store(str(folder / "store"))
    result = finish(store.uri, TRIAL, request.attempt)
    if request.attempt == "zombie":
        (folder / "refused").write_text(str(not store.commit(result, TRIAL.spec)))
    return result


class Story:
    """What happens to one trial, whose first attempt becomes a zombie."""

    def __init__(self, folder: Path, hosts: Hosts) -> None:
        self.folder, self.hosts, self.port = folder, hosts, free_port()
        self.store = Store(str(folder / "store"))
        self.programs: list[Program] = []

    def start_node(self, *options: str, host: int | None = None) -> None:
        """Start a node here or on a host, and wait until it has joined."""
        address = self.hosts.own_address if host is None else self.hosts.address(host)
        log = self.folder / f"ray{len(self.programs)}.log"
        program = Program(
            [*_START, *options, *_COMMON, f"--node-ip-address={address}"],
            log,
            dict(os.environ),
            before=() if host is None else self.hosts.before(host),
        )
        self.programs.append(program)
        wait_for(lambda: _STARTED in log.read_bytes() or program.code is not None, log.name)
        assert program.code is None, log.read_text()

    def start(self) -> str:
        """Start the head here, without CPUs, and one node on host 0; return the address."""
        head = ("--head", "--num-cpus=0", "--include-dashboard=false", f"--port={self.port}")
        client = f"--ray-client-server-port={free_port()}"
        self.start_node(*head, client, f"--temp-dir={os.environ['RAY_TMPDIR']}")
        address = f"{self.hosts.own_address}:{self.port}"
        self.start_node(f"--address={address}", "--num-cpus=1", host=0)
        return address

    def submit(self, executor: RayExecutor, attempt: str) -> None:
        request = make_request("patient")
        executor.submit(
            request.model_copy(
                update={"spec": TRIAL.spec, "attempt": attempt, "cache_folder": str(self.folder)}
            )
        )

    def begun(self, executor: RayExecutor, attempt: str) -> int:
        """Wait until an attempt runs, and return its process."""
        file = self.folder / f"{attempt}.pid"
        eventually(lambda: not executor.wait(0.1) and file.exists() and file.read_text(), 120)
        return int(file.read_text())

    def outcome(self, executor: RayExecutor) -> Outcome:
        """Wait for the next answer."""
        (outcome,) = eventually(lambda: executor.wait(0.2), 120)
        return outcome

    def live(self, executor: RayExecutor) -> dict[str, Any]:
        """Cut host 0 off under the first attempt, let host 1 do the second, then heal."""
        self.submit(executor, "zombie")
        pid = self.begun(executor, "zombie")
        self.start_node(f"--address={self.hosts.own_address}:{self.port}", "--num-cpus=1", host=1)
        self.hosts.cut(0)
        cut_s = time.monotonic()
        lost = self.outcome(executor)
        noticed_s = time.monotonic() - cut_s
        was_alive = Path(f"/proc/{pid}").exists()
        self.submit(executor, "fresh")
        self.begun(executor, "fresh")
        (self.folder / "fresh.go").touch()
        done = self.outcome(executor)
        assert isinstance(done, Succeeded), done
        is_first = self.store.commit(done.result, TRIAL.spec)
        (self.folder / "zombie.go").touch()
        eventually((self.folder / "refused").exists, 60)
        self.hosts.heal(0)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), 120)
        record = self.store.read(TRIAL.key)
        return {
            "failure": lost.failure.value if not isinstance(lost, Succeeded) else "none",
            "noticed_s": noticed_s,
            "zombie_was_alive": was_alive,
            "fresh_was_committed": is_first,
            "zombie_was_refused": (self.folder / "refused").read_text() == "True",
            "attempt": record.attempt if record else None,
            "late_answers": len(executor.wait(1)),
        }


def main(folder: Path) -> None:
    """Tell the story."""
    with Hosts(2) as hosts:
        story = Story(folder, hosts)
        try:
            with Session(story.start()) as session:
                executor = RayExecutor(session, ONE_RANK, 1, None, patient_trial, export_rank)
                try:
                    print(json.dumps(story.live(executor)), flush=True)
                finally:
                    executor.close()
        finally:
            for program in story.programs:
                program.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
