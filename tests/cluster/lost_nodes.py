"""Takes nodes away from a real cluster while gangs work on them; run as a program of its own.

It prints one JSON line for each way in which a node goes. A cluster of several nodes cannot be
started in a process that is connected to Ray already.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from cluster.health import health_environment
from cluster.nodes import draining_nodes
from cluster.ray_executor import RayExecutor
from cluster.session import Session
from orchestrator.doctor_services import look_at_ray
from tests.cluster.scripted import (
    ONE_RANK,
    eventually,
    export_rank,
    make_request,
    scripted_trial,
    wait_all,
)


def drain(cluster: Cluster, node_id: str, left_s: float = 1.0) -> None:
    """Tell Ray what a cloud tells of a spot node: in so many seconds it will be gone."""
    deadline_ms = int((time.time() + left_s) * 1000)
    accepted, why = GcsClient(address=cluster.address).drain_node(
        node_id, DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), "spot", deadline_ms
    )
    assert accepted, why
    eventually(lambda: node_id in draining_nodes())


def lose_a_node(cluster: Cluster, session: Session, folder: Path, way: str) -> dict[str, str]:
    """Return how an attempt ends whose node goes.

    It is ``noticed`` that it drains, ``drained`` and killed at once, ``ended``, or ``cut`` off. One
    that is cut off is stopped as it is: like a node behind a broken cable, it says nothing more and
    closes no connection.
    """
    node = cluster.add_node(num_cpus=1)
    eventually(lambda: len(session.nodes) == 2)
    if way == "ended":
        found = look_at_ray({"RAY_ADDRESS": cluster.address}, 60)
        print(json.dumps({"doctor": found[-1].said}), flush=True)
    executor = RayExecutor(session, ONE_RANK, 1, None, scripted_trial, export_rank)
    try:
        action = "leave_at_notice" if way == "noticed" else "wait_for"
        executor.submit(make_request(f"{action}:{folder / way}"))
        eventually(lambda: not executor.wait(0.1) and list(folder.glob(f"{way}.pid*")), 60)
        if way == "noticed":
            drain(cluster, node.node_id, left_s=600.0)
            [outcome] = wait_all(executor, 1)
        elif way == "drained":
            drain(cluster, node.node_id)
        start_s = time.monotonic()
        if way == "cut":
            suspend(node)
        else:
            cluster.remove_node(node, allow_graceful=way == "ended")
        if way != "noticed":
            [outcome] = wait_all(executor, 1, 120)
        took_s = time.monotonic() - start_s
    finally:
        executor.close()
    said = {"way": way, "failure": outcome.failure.value, "message": outcome.message}
    return said | {"took_s": f"{took_s:.1f}"}


def suspend(node: Any) -> None:
    """Stop all processes of a node without ending them."""
    for info in node.all_processes[PROCESS_TYPE_RAYLET]:
        raylet = psutil.Process(info.process.pid)
        for process in (raylet, *raylet.children(recursive=True)):
            process.suspend()


def main(folder: Path) -> None:
    """Lose one node in each way."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        with Session(cluster.address) as session:
            for way in ("noticed", "drained", "ended", "cut"):
                print(json.dumps(lose_a_node(cluster, session, folder, way)), flush=True)
    finally:
        children = psutil.Process().children(recursive=True)
        ray.shutdown()
        cluster.shutdown()
        for child in children:  # one that is suspended ends of nothing else
            with contextlib.suppress(psutil.Error):
                child.kill()


if __name__ == "__main__":
    os.environ |= health_environment()
    main(Path(sys.argv[1]))
