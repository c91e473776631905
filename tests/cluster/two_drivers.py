"""Drivers that share a real cluster; run as a program of its own.

``start FOLDER``: a cluster of two CPUs and one driver process for each argument that follows,
``name:gangs:ranks:trials:seconds``. A driver of 0 trials goes on until another has ended. Each
trial leaves one line in FOLDER/order as it begins, and each driver one as it ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from cluster.ray_executor import RayExecutor
from cluster.session import Session
from cluster.share import Sharing
from search_spaces.contracts import Compute, Succeeded
from tests.cluster.scripted import export_rank, make_request, scripted_trial

NUM_CPUS = 2
_LIMIT_S = 150.0
_TURN_S = 3.0


def drive(
    address: str, folder: Path, name: str, gangs: int, ranks: int, trials: int, trial_s: float
) -> None:
    """Run equal trials on as many gangs as there may be."""
    compute, order = Compute(num_ranks=ranks, num_threads=1), folder / "order"
    with Session(address) as session:
        sharing = Sharing(name, turn_s=_TURN_S)
        executor = RayExecutor(session, compute, gangs, None, scripted_trial, export_rank, sharing)
        (folder / f"{name}.ready").touch()
        num_begun = num_running = 0
        deadline_s = time.monotonic() + _LIMIT_S

        def has_more() -> bool:
            return num_begun < trials if trials else "ended" not in order.read_text()

        try:
            order.touch()
            while has_more() or num_running:
                assert time.monotonic() < deadline_s, f"{name}: only {num_begun} trials"
                while has_more() and num_running < executor.num_slots:
                    label = f"note:{order}:{name}:{trial_s}"
                    executor.submit(make_request(label, num_begun, compute))
                    num_begun, num_running = num_begun + 1, num_running + 1
                ended = executor.wait(0.5)
                assert all(isinstance(one, Succeeded) for one in ended), ended
                num_running -= len(ended)
        finally:
            executor.close()
    with order.open("a") as file:
        file.write(f"{name} ended\n")


def main(folder: Path, drivers: list[str]) -> None:
    """Start a cluster and its drivers, each when the one before has begun."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": NUM_CPUS})
    processes = []
    try:
        for index, driver in enumerate(drivers):
            name = driver.split(":")[0]
            command = [sys.executable, "-m", __spec__.name, "drive", cluster.address, str(folder)]
            processes.append(subprocess.Popen([*command, driver]))
            wait_for_first(folder / "order" if index == 0 else folder / f"{name}.ready")
        codes = [process.wait(_LIMIT_S) for process in processes]
        print(f"codes {codes}", flush=True)
    finally:
        for process in processes:
            process.kill()
        ray.shutdown()
        cluster.shutdown()


def wait_for_first(path: Path) -> None:
    """Wait until something is in a file, or a while."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        if path.exists() and (path.name != "order" or path.read_text()):
            return
        time.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1] == "drive":
        given = sys.argv[4].split(":")
        drive(
            sys.argv[2],
            Path(sys.argv[3]),
            given[0],
            *(int(number) for number in given[1:4]),
            float(given[4]),
        )
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        main(Path(sys.argv[2]), sys.argv[3:])
