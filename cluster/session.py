"""A connection to Ray: an existing cluster, or a local one that ends with the session."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import socket
import tempfile
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.growth import cluster_grows
from cluster.resources import NodeResources, usable_cpus
from cluster.sigterm import keep_sigterm
from cluster.tokens import make_private_token
from search_spaces.errors import UserError

ADDRESS_VARIABLE = "RAY_ADDRESS"
_PROBE_TIMEOUT_S = 5.0
_LOOK_TIMEOUT_S = 60.0  # a node that runs nothing yet starts a process and imports this package
_OBJECT_STORE_BYTES = 128 * 2**20  # requests and results are a few KB each
_MAX_TEMP_PATH = 40  # Ray adds about 65 characters; a unix socket's path may have 107
# What a gRPC server, such as Ray's head, answers within one round trip: HTTP/2 settings.
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
_HTTP2_SETTINGS_FRAME = 4


class Session:
    """A context in which gangs can be started on Ray.

    Inside, Ray is connected and quiet: nothing of it is printed on this terminal. On leaving,
    only what the session itself started or connected is ended.

    Attributes:
        address: Address of the cluster's head; None means a local Ray of this session.
    """

    def __init__(self, address: str | None = None, num_cpus: int | None = None) -> None:
        """Choose where to connect; nothing happens before the session is entered.

        Args:
            address: ``host:port`` or ``auto``; default ``$RAY_ADDRESS``; ``local`` or nothing
                at all starts a local Ray.
            num_cpus: CPUs of a local Ray; default all that this process may use.
        """
        given = address or os.environ.get(ADDRESS_VARIABLE) or "local"
        self.address = None if given == "local" else given
        self._num_cpus = num_cpus or usable_cpus()
        self._numbers = itertools.count()
        self._temp_folder: str | None = None
        self._dashboard_url: str | None = None
        self._owned = False

    def __enter__(self) -> Session:
        """Connect or start Ray.

        Raises:
            UserError: The cluster does not answer or refuses this user, or a local Ray cannot
                start.
        """
        if self.address:
            _check_address(self.address)
        if ray.is_initialized():
            return self
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning
        try:
            with keep_sigterm():
                context = self._connect(self.address) if self.address else self._start()
        except BaseException:
            self._remove_temp_folder()
            raise
        self._owned = True
        self._dashboard_url = context.dashboard_url or None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._owned:
            ray.shutdown()
            self._owned = False
        self._remove_temp_folder()

    @property
    def dashboard_url(self) -> str | None:
        """URL of Ray's dashboard, or None when there is none."""
        url = self._dashboard_url
        return url if url is None or "://" in url else f"http://{url}"

    @property
    def nodes(self) -> list[NodeResources]:
        """Total resources of each living node."""
        totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return [NodeResources(total.get("CPU", 0), total.get("GPU", 0)) for total in totals]

    @property
    def grows(self) -> bool:
        """Whether an autoscaler may add nodes to the cluster."""
        return self.address is not None and cluster_grows()

    @property
    def is_multi_node(self) -> bool:
        """Whether trials can run on another node than this process."""
        return len(self.nodes) > 1

    def nodes_without(self, path: Path) -> list[str]:
        """Return the addresses of the living nodes that do not see a file of this machine.

        Raises:
            UserError: A node cannot run this package, or does not answer.
        """
        look = ray.remote(num_cpus=0, max_retries=0)(_exists)
        answers = {
            node["NodeManagerAddress"]: look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                name="look-for-store",
            ).remote(str(path))
            for node in ray.nodes()
            if node["Alive"]
        }
        ray.wait(list(answers.values()), num_returns=len(answers), timeout=_LOOK_TIMEOUT_S)
        return [address for address, answer in answers.items() if not _answer(address, answer)]

    @property
    def description(self) -> str:
        """Where Ray runs and what it has, for people."""
        nodes = self.nodes
        where = f"Ray cluster {self.address}" if self.address else "local Ray"
        cpus, gpus = sum(n.num_cpus for n in nodes), sum(n.num_gpus for n in nodes)
        return f"{where}: {len(nodes)} node(s), {cpus:g} CPU(s), {gpus:g} GPU(s)"

    def new_gang_number(self) -> int:
        """Return a number that no other gang of this session has."""
        return next(self._numbers)

    def _connect(self, address: str) -> Any:
        try:
            if address != "auto":
                # This refuses a wrong token at once, where ray.init tries for 20 s.
                ray._raylet.GcsClient(address=address)
            return ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise UserError(
                f"The Ray cluster at {address} cannot be joined: {_first_line(error)}. If it "
                "asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as on its "
                f"nodes; else see `ray status --address={address}`."
            ) from error

    def _start(self) -> Any:
        self._temp_folder = _short_temp_folder()
        try:
            return self._start_local(include_dashboard=True)
        except Exception:  # a dashboard is a comfort: go on without
            ray.shutdown()
        try:
            return self._start_local(include_dashboard=False)
        except Exception as error:
            ray.shutdown()
            raise UserError(
                f"Ray cannot start on this machine: {_first_line(error)}. Check that its "
                "temporary folder can be written and has room (RAY_TMPDIR names another), or join "
                f"a running cluster by setting {ADDRESS_VARIABLE} to its host:port."
            ) from error

    def _start_local(self, include_dashboard: bool) -> Any:
        # Ray itself turns on token authentication for a local instance.
        make_private_token(os.environ)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ray.init(
                address="local",
                num_cpus=self._num_cpus,
                include_dashboard=include_dashboard,
                dashboard_host="127.0.0.1",
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=self._temp_folder,
            )

    def _remove_temp_folder(self) -> None:
        if self._temp_folder:
            shutil.rmtree(self._temp_folder, ignore_errors=True)
            self._temp_folder = None


def _exists(path: str) -> bool:
    return os.path.exists(path)


def _answer(address: str, answer: ray.ObjectRef) -> bool:
    """Return what a node has answered by now; one that is gone is in nobody's way."""
    try:
        exists: bool = ray.get(answer, timeout=0)
    except ray.exceptions.TaskUnschedulableError:  # the node has left meanwhile
        return True
    except ray.exceptions.RayError as error:
        is_late = isinstance(error, ray.exceptions.GetTimeoutError)
        reason = f"no answer within {_LOOK_TIMEOUT_S:g} s" if is_late else _last_line(error)
        raise UserError(
            f"The Ray node {address} cannot run this project: {reason}. Install the project there "
            "with the same versions of Python and of all packages as here, or take the node out "
            "of the cluster."
        ) from error
    return exists


def _short_temp_folder() -> str | None:
    """Return a new short folder where Ray's default would make its sockets' paths too long."""
    default = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(default) <= _MAX_TEMP_PATH:
        return None
    root = Path("/tmp")
    return tempfile.mkdtemp(prefix="tickets-", dir=root if root.is_dir() else None)


def _check_address(address: str) -> None:
    """Make sure that a Ray head answers, since Ray itself would wait for minutes."""
    if address == "auto":
        return  # Ray looks it up on this machine and fails at once
    hint = (
        f"Give the head's host:port (usually port 6379) in {ADDRESS_VARIABLE}, check that the "
        "cluster is up and reachable from here, or unset it to use this machine alone."
    )
    host, port = _host_and_port(address, hint)
    try:
        with socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S) as connection:
            answer = _hello(connection)
    except (OSError, UnicodeError) as error:  # the latter where the host is no name at all
        raise UserError(f"No Ray cluster answers at {address}: {error}. {hint}") from error
    if answer[3:4] != bytes([_HTTP2_SETTINGS_FRAME]):
        raise UserError(f"What answers at {address} is not a Ray head. {hint}")


def _hello(connection: socket.socket) -> bytes:
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return bytes([0, 0, 0, _HTTP2_SETTINGS_FRAME])  # encrypted: that it listens must do
    connection.settimeout(_PROBE_TIMEOUT_S)
    connection.sendall(_HTTP2_HELLO)
    return connection.recv(9)


def _host_and_port(address: str, hint: str) -> tuple[str, int]:
    if "://" in address:
        raise UserError(f"{address} is not the address of a Ray head. {hint}")
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise UserError(f"{address!r} is not of the form host:port. {hint}")
    return host, port


def _first_line(error: BaseException) -> str:
    return _lines(error)[0].rstrip(".")


def _last_line(error: BaseException) -> str:
    """Return the line of a remote traceback that says what went wrong."""
    return _lines(error)[-1].rstrip(".")


def _lines(error: BaseException) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]
