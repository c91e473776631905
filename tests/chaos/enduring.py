"""One sweep that is run by the real command while a schedule's faults hit it, until it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.journal import Journal
from search_spaces.errors import UserError
from tests.chaos.processes import PATIENCE_S, Program, kill
from tests.chaos.schedules import Fault, Schedule
from tests.chaos.services import RayCluster, TrackingServer

MAX_RUNS = 6
_LOOK_S = 0.1  # often enough for seeded moments, and little work beside the sweep
_COMMAND = ("-c", "from orchestrator.cli import main; main()", "run")


class NotEnduredError(Exception):
    """The sweep did not come to its end; the message says why."""


@dataclass(frozen=True)
class Hit:
    """A fault that was injected: when, in seconds since the epoch."""

    fault: Fault
    at: float


@dataclass
class Endured:
    """What happened to one sweep.

    Attributes:
        sweep: The sweep's file.
        schedule: What was to happen.
        hits: What did; a fault may find the sweep done before its moment comes.
        codes: Exit code of each run of the command; negative where it was killed.
        markers: When each trial's marker was written, by key, as it was seen first.
        seconds: From the first command to the end of the last.
    """

    sweep: Path
    schedule: Schedule
    hits: list[Hit] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    markers: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def store(self) -> Path:
        """The sweep's own store."""
        return self.sweep.with_name(f"{self.sweep.stem}-store")

    @property
    def journal(self) -> Path:
        """The sweep's journal."""
        return self.store / "journals" / f"{self.sweep.stem}.sqlite"

    @property
    def log(self) -> Path:
        """What all runs of the command said."""
        return self.sweep.with_suffix(".log")

    def markers_now(self) -> dict[str, int]:
        """Return when each committed trial's marker was written, by key."""
        found = self.store.glob("results/*/COMMITTED.json")
        return {marker.parent.name: marker.stat().st_mtime_ns for marker in found}


def sweep_file(root: Path, name: str, tracking_uri: str) -> Path:
    """Write a sweep of six short trials, two at a time; the data lie in ``root``."""
    from tests.orchestrator.sweeps import write_sweep  # loads torch: while other things start

    return write_sweep(
        root,
        name,
        root,
        resources={"gangs": "auto"},
        recipe={"epochs": 6, "batch_size": 16, "learning_rate": 1e-3},
        retries={"backoff_s": 0.5},
        tracking={"uri": tracking_uri, "experiment": name},
    )


class Endurance:
    """Runs one sweep under one schedule.

    Args:
        root: Has the data, gets the sweep's file, store and log.
        schedule: What hits it.
        cluster: Runs; restarted where a fault takes it away.
        server: Runs, likewise.
        name: Of the sweep.
    """

    def __init__(
        self, root: Path, schedule: Schedule, cluster: RayCluster, server: TrackingServer, name: str
    ) -> None:
        self._cluster, self._server = cluster, server
        self._endured = Endured(sweep_file(root, name, server.uri), schedule)
        self._driver: Program | None = None
        self._num_started = 0

    def run(self) -> Endured:
        """Inject the faults and run the command until it ends well.

        Raises:
            NotEnduredError: It did not, after several runs.
        """
        began_s = time.monotonic()
        try:
            self._start()
            for fault in self._endured.schedule.faults:
                if self._reaches(fault):
                    self._inject(fault)
            while self._ended() != 0:
                self._start()
        finally:
            if self._driver:
                self._driver.close()
        self._endured.seconds = time.monotonic() - began_s
        return self._endured

    def _start(self) -> None:
        """Give the command; the same one each time."""
        if len(self._endured.codes) == MAX_RUNS:
            raise NotEnduredError(f"{MAX_RUNS} runs ended with {self._endured.codes}")
        self._cluster.wait()
        self._server.wait()
        environment: Mapping[str, str] = {
            **self._cluster.environment,
            "RAY_ADDRESS": self._cluster.address,
            "COLUMNS": "200",
        }
        arguments = [*_COMMAND, str(self._endured.sweep)]
        self._driver = Program(arguments, self._endured.log, environment)
        self._num_started += 1

    def _reaches(self, fault: Fault) -> bool:
        """Wait for a fault's moment; return whether it comes before the command's end."""
        until = self._num_events() + fault.num_events
        while self._num_events() < until or not self._has_target(fault):
            if not self._is_running():
                return False
        due_s = time.monotonic() + fault.delay_s
        while time.monotonic() < due_s:
            if not self._is_running():
                return False
        return True

    def _has_target(self, fault: Fault) -> bool:
        """Whether what is to die lives; a driver that has not begun has nothing to lose."""
        if fault.kind == "rank":
            return bool(self._cluster.ranks())
        return self._endured.journal.exists()

    def _is_running(self) -> bool:
        """Look at the store, pause for a moment, and return whether the command still runs."""
        assert self._driver
        for key, written in self._endured.markers_now().items():
            self._endured.markers.setdefault(key, written)
        time.sleep(_LOOK_S)
        return self._driver.code is None

    def _inject(self, fault: Fault) -> None:
        """Kill, and start again what a supervisor would."""
        self._endured.hits.append(Hit(fault, time.time()))
        getattr(self, f"_lose_{fault.kind}")(fault)

    def _lose_driver(self, fault: Fault) -> None:
        assert self._driver
        self._driver.kill()
        self._ended()
        self._start()

    def _lose_rank(self, fault: Fault) -> None:
        ranks = self._cluster.ranks()
        if not ranks or not kill(ranks[fault.pick % len(ranks)].pid):
            self._endured.hits.pop()  # its gang ended by itself this moment

    def _lose_raylet(self, fault: Fault) -> None:
        assert self._cluster.node
        for raylet in self._cluster.node.named("raylet"):
            kill(raylet.pid)
        time.sleep(fault.outage_s)
        self._cluster.replace_node()

    def _lose_gcs(self, fault: Fault) -> None:
        assert self._cluster.head
        for server in self._cluster.head.named("gcs_server"):
            kill(server.pid)
        code = self._ended()  # the driver cannot go on without it
        self._cluster.restart()
        if code != 0:
            self._start()

    def _lose_mlflow(self, fault: Fault) -> None:
        self._server.stop()
        time.sleep(fault.outage_s)
        self._server.start()

    def _ended(self) -> int:
        """Wait for the command's end, and return its exit code."""
        assert self._driver
        deadline_s = time.monotonic() + PATIENCE_S
        while self._is_running():
            if time.monotonic() > deadline_s:
                raise NotEnduredError(f"a run did not end within {PATIENCE_S:g} s")
        if len(self._endured.codes) < self._num_started:
            self._endured.codes.append(self._driver.wait())
        return self._endured.codes[-1]

    def _num_events(self) -> int:
        """Return the number of the journal's last entry; 0 while there is none."""
        try:
            with Journal.read_only(self._endured.journal) as reader:
                return reader.last_event_id()
        except UserError:  # not there yet, or opened for the first time this moment
            return 0
