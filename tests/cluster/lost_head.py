"""Kills the head of a real cluster while a driver's gangs work; run as a program of its own.

``FOLDER WAY``: with WAY ``back`` the head keeps its table on disk and returns after some seconds,
with ``gone`` it stays away. Prints how the driver ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from cluster.ray_executor import RayExecutor
from cluster.session import Session
from search_spaces.contracts import Succeeded
from search_spaces.errors import UserError
from tests.cluster.scripted import ONE_RANK, export_rank, make_request, scripted_trial

_LIMIT_S = 100.0
_AWAY_S = 6.0
_NUM_TRIALS = {"back": 30, "gone": 10_000}


def drive(address: str, folder: Path, num_trials: int) -> None:
    """Run trials of half a second until all are done, or the head is lost."""
    ends = 0
    try:
        with Session(address) as session:
            executor = RayExecutor(session, ONE_RANK, 1, None, scripted_trial, export_rank)
            try:
                for seed in range(num_trials):
                    executor.submit(make_request(f"note:{folder}/order:trial:0.5", seed))
                    while not (ended := executor.wait(0.5)):
                        pass
                    assert isinstance(ended[0], Succeeded), ended
                    ends += 1
            finally:
                executor.close()
    except UserError as error:
        print(json.dumps({"ends": ends, "said": str(error)}), flush=True)
        sys.exit(error.exit_code)
    print(json.dumps({"ends": ends, "said": ""}), flush=True)


def main(folder: Path, way: str) -> None:
    """Start a cluster and a driver, and kill the head when a trial has begun."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    command = [sys.executable, "-m", __spec__.name, "drive", cluster.address, str(folder)]
    command.append(str(_NUM_TRIALS[way]))
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        deadline_s = time.monotonic() + 60
        while not (folder / "order").exists() and time.monotonic() < deadline_s:
            time.sleep(0.1)
        cluster.head_node.kill_gcs_server()
        killed_s = time.monotonic()
        if way == "back":
            time.sleep(_AWAY_S)
            cluster.head_node.start_gcs_server()
        said, _ = driver.communicate(timeout=_LIMIT_S)
        print(f"after {time.monotonic() - killed_s:.1f} s", file=sys.stderr)
        print(json.dumps({"code": driver.returncode}))
        print(said.strip() or json.dumps({"ends": 0, "said": ""}), flush=True)
    finally:
        driver.kill()
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "drive":
        drive(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        main(Path(sys.argv[1]), sys.argv[2])
