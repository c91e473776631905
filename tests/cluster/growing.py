"""A real cluster that starts without a CPU and grows by demand; run as a program of its own.

The nodes are processes of this machine, but the autoscaler that adds them is Ray's own. Prints what
it saw: first of a gang that no node could ever hold, then of one that a new node holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private.services import get_node_ip_address
from ray.cluster_utils import Cluster
from ray.experimental.internal_kv import _internal_kv_get

from cluster.ray_executor import RayExecutor
from cluster.session import Session
from search_spaces.contracts import Compute
from tests.cluster.scripted import (
    ONE_RANK,
    answer_of,
    eventually,
    export_rank,
    make_request,
    scripted_trial,
    wait_all,
)

HEAD_ID = "f" * 51 + "00000"  # which Ray's provider of local nodes expects
TOO_LARGE = Compute(num_ranks=1, num_threads=5)


def configuration(address: str) -> dict[str, Any]:
    """Up to two nodes of one CPU beside a head without any."""
    lists = (
        "head_start_ray_commands worker_start_ray_commands setup_commands head_setup_commands "
        "worker_setup_commands initialization_commands cluster_synced_files rsync_exclude "
        "rsync_filter"
    )
    node = {"node_config": {}, "min_workers": 0}
    return {
        "cluster_name": "growing",
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": address,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {**node, "resources": {"CPU": 0}, "max_workers": 0},
            "small": {**node, "resources": {"CPU": 1}, "max_workers": 2},
        },
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "auth": {"ssh_user": "nobody"},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in lists.split()},
    }


def start(folder: Path) -> Cluster:
    """Start the head and its autoscaler."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    path = folder / "autoscaling.json"
    path.write_text(json.dumps(configuration(f"{get_node_ip_address()}:{port}")))
    args = {"num_cpus": 0, "gcs_server_port": port, "autoscaling_config": str(path)}
    return Cluster(initialize_head=True, head_node_args=args)


def demand() -> list[float]:
    """CPUs of the first bundle of each group that the autoscaler knows to wait."""
    status = json.loads(_internal_kv_get("__autoscaling_status") or b"{}")
    groups = (status.get("load_metrics_report") or {}).get("pg_demand") or []
    return sorted(group["bundles"][0][0]["CPU"] for group, _ in groups)


def executor(session: Session, compute: Compute) -> RayExecutor:
    return RayExecutor(session, compute, 1, None, scripted_trial, export_rank)


def main(folder: Path) -> None:
    """Ask for too much, then for one CPU."""
    cluster = start(folder)
    try:
        with Session(cluster.address) as session:
            eventually(lambda: session.grows, 60)
            large, small = executor(session, TOO_LARGE), executor(session, ONE_RANK)
            large.submit(make_request("return:", compute=TOO_LARGE))
            small.submit(make_request("return:grown"))
            asked = eventually(lambda: not small.wait(0.1) and demand() == [1.0, 5.0], 60)
            answer = answer_of(wait_all(small, 1, 120)[0])
            left = []
            deadline_s = time.monotonic() + 12
            while time.monotonic() < deadline_s:
                large.wait(0.5)
                left.append(demand())
            phases = [point.phase for point in large.progress()]
            said = {"asked": asked, "answer": answer, "left": left[-8:], "phases": phases}
            print(json.dumps(said), flush=True)
            large.close()
            small.close()
    finally:
        children = psutil.Process().children(recursive=True)
        ray.shutdown()
        cluster.shutdown()
        for child in children:  # the autoscaler's nodes are not the cluster's to end
            with contextlib.suppress(psutil.Error):
                child.kill()


if __name__ == "__main__":
    os.environ |= {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    main(Path(sys.argv[1]))
