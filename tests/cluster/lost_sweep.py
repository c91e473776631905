"""Kills the head of a real cluster under `tickets run`, and runs the sweep again on another.

A program of its own, ``FOLDER``: prints how each of the two commands ended.
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

from tests.orchestrator.sweeps import write_data, write_sweep

_LIMIT_S = 240.0


def command(address: str, sweep: Path) -> subprocess.Popen[str]:
    """Start `tickets run` on a cluster."""
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", "run", str(sweep)],
        env={**os.environ, "RAY_ADDRESS": address, "COLUMNS": "200"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=sweep.parent,
    )


def run(sweep: Path, kills: bool) -> dict[str, object]:
    """Run the sweep on a new cluster; kill the head when the first result is there, or never."""
    store = sweep.parent / "toy-store"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    process = command(cluster.address, sweep)
    try:
        deadline_s = time.monotonic() + _LIMIT_S
        while kills and process.poll() is None and time.monotonic() < deadline_s:
            if list(store.glob("results/*/*.json")):
                cluster.head_node.kill_gcs_server()
                break
            time.sleep(0.1)
        _, said = process.communicate(timeout=_LIMIT_S)
    finally:
        process.kill()
        ray.shutdown()
        cluster.shutdown()
    return {"code": process.returncode, "said": said.strip().splitlines()[-2:]}


def main(folder: Path) -> None:
    """Lose the head, then go on."""
    write_data(folder)
    seeds = list(range(1, 41))  # more than ends while the head is waited for
    sweep = write_sweep(folder, "toy", folder, seeds=seeds)
    print(json.dumps(run(sweep, kills=True)), flush=True)
    print(json.dumps(run(sweep, kills=False)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
