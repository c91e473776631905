"""What the doctor looks at of others: MLflow and Ray, each for a few seconds at most."""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cluster.health import SOON_S, health_environment, notice_s
from cluster.tokens import TOKEN_VARIABLE, open_to_others, token_file
from orchestrator.findings import Finding, within
from search_spaces.errors import UserError
from search_spaces.places import masked
from search_spaces.sweep import SweepSpec

_SQLITE = "sqlite:///"
_HEALTH_TODO = " ".join(f"{name}={value}" for name, value in health_environment().items()) + "."

_ASK_HEALTH = """
import json, logging, os, sys, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
nodes = [node for node in ray.nodes() if node["Alive"]]
[head] = [one["NodeID"] for one in nodes if "node:__internal_head__" in one["Resources"]]
place = NodeAffinitySchedulingStrategy(head, soft=False)
look = ray.remote(lambda: {k: v for k, v in os.environ.items() if k.startswith("RAY_health")})
look = look.options(num_cpus=0, scheduling_strategy=place, name="look-for-settings")
print(json.dumps([len(nodes), ray.get(look.remote())]))
"""

_ASK_RAY = """
import json, platform, sys, ray
from ray._common.usage.usage_lib import get_cluster_metadata
said = get_cluster_metadata(ray._raylet.GcsClient(address=sys.argv[1]))
theirs = said["ray_version"], said["python_version"]
print(json.dumps([theirs, [ray.__version__, platform.python_version()]]))
"""


def look_at_mlflow(spec: SweepSpec, committed: set[str], patience_s: float) -> list[Finding]:
    """Look whether MLflow answers and how far it mirrors the store; makes no new database.

    Args:
        spec: The sweep.
        committed: Keys of the sweep's trials that the store holds.
        patience_s: Longest time in seconds.
    """
    uri = spec.tracking.uri
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).exists():
        return [Finding("mlflow", "ok", f"{masked(uri)}: none yet; 'tickets run' makes it.")]
    todo = "See that MLflow runs at 'tracking.uri' and that this machine reaches it."
    return within("mlflow", patience_s, lambda: _mirror(spec, committed, patience_s), todo)


def look_at_ray(environment: Mapping[str, str], patience_s: float) -> list[Finding]:
    """Look whether the cluster that RAY_ADDRESS names answers, and with which versions.

    Args:
        environment: Variables.
        patience_s: Longest time in seconds.
    """
    address = environment.get("RAY_ADDRESS", "")
    if address in ("", "local", "auto"):
        said = "RAY_ADDRESS names no cluster: a local Ray is started with each run."
        return [Finding("ray", "ok", said), *_open_token(environment)]
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or "://" in address:
        todo = "Give the head's host:port, usually port 6379."
        return [Finding("ray", "fail", f"RAY_ADDRESS is {address!r}, not host:port.", todo)]
    try:
        socket.create_connection((host, port), timeout=patience_s).close()
    except OSError as error:
        todo = "Check that the cluster is up and reachable from here, or unset RAY_ADDRESS."
        return [Finding("ray", "fail", f"nothing answers at {address}: {error}.", todo)]
    found = [_versions(address, patience_s), _token_finding(host, environment)]
    return found if found[0].level == "fail" else [*found, _health(address, patience_s)]


def _mirror(spec: SweepSpec, committed: set[str], patience_s: float) -> list[Finding]:
    from orchestrator.tracking_client import active_experiment, explained, open_client, search_all

    uri, name = spec.tracking.uri, spec.tracking.experiment or spec.name
    try:
        client = open_client(uri, patience_s)
        with explained(uri):
            experiment = active_experiment(client, uri, name)
            runs = search_all(client, experiment, "tags.trial_key != ''") if experiment else []
    except UserError as error:
        return [Finding("mlflow", "fail", str(error), "See the sentence before.")]
    finished = {run.data.tags["trial_key"] for run in runs if run.info.status == "FINISHED"}
    lag = len(committed - finished)
    said = f"{masked(uri)} answers; experiment {name} has {len(finished):,} finished trials."
    found = [Finding("mlflow", "ok", said)]
    if lag:
        said = f"{lag} committed trials are not finished there: the mirror is behind."
        found.append(Finding("mlflow", "warn", said, "The next 'tickets run' catches up."))
    return found


def _versions(address: str, patience_s: float) -> Finding:
    """Compare Ray's and Python's version with the cluster's.

    Ray is asked in a process of its own: its client neither gives up in time nor can be left.
    """
    todo = "See 'ray status', and that both sides have the same token."
    command = [sys.executable, "-c", _ASK_RAY, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience_s)
        theirs, ours = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        said = f"what answers at {address} says no version within {patience_s:g} s."
        return Finding("ray", "fail", said, todo)
    except (ValueError, IndexError):
        problem = (done.stderr.splitlines() or ["no reason given"])[-1]
        return Finding("ray", "fail", f"{address} does not say its version: {problem}", todo)
    what = f"Ray {theirs[0]} and Python {theirs[1]} at {address}"
    if theirs == ours:
        return Finding("ray", "ok", f"{what}, as here.")
    todo = "Use the same versions on both sides: Ray refuses others."
    return Finding("ray", "fail", f"{what}, but {ours[0]} and {ours[1]} here.", todo)


def _health(address: str, patience_s: float) -> Finding:
    """Look how soon the head notices that a node has vanished: a process on it tells."""
    command = [sys.executable, "-c", _ASK_HEALTH, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience_s)
        num_nodes, settings = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        said = "the head does not tell how soon it notices a lost node."
        return Finding("ray health", "warn", said, f"On the head: {_HEALTH_TODO}")
    return health_finding(num_nodes, settings)


def health_finding(num_nodes: int, settings: Mapping[str, str]) -> Finding:
    """Judge how soon a head notices that a node has vanished.

    Args:
        num_nodes: Living nodes.
        settings: The head's variables.
    """
    said = f"a node that vanishes is noticed within {notice_s(settings):g} s."
    if num_nodes == 1:
        return Finding("ray health", "ok", "the cluster is one node.")
    if notice_s(settings) <= SOON_S:
        return Finding("ray health", "ok", said)
    todo = f"Start the head again with {_HEALTH_TODO}"
    return Finding("ray health", "warn", f"{said[:-1]}; until then its gangs wait.", todo)


def _token_finding(host: str, environment: Mapping[str, str]) -> Finding:
    if found := _open_token(environment):
        return found[0]
    path = token_file(environment)
    if environment.get(TOKEN_VARIABLE) or (path and path.exists()):
        return Finding("ray token", "ok", "there is one.")
    if _is_loopback(host):
        return Finding("ray token", "ok", "none; the cluster is on this machine.")
    todo = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as on the cluster's nodes."
    return Finding("ray token", "warn", "none, and the cluster is on another machine.", todo)


def _open_token(environment: Mapping[str, str]) -> list[Finding]:
    said, todo = open_to_others(environment)
    return [Finding("ray token", "warn", said, todo)] if said else []


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
