"""Cluster, server, data and the undisturbed results: what all schedules share."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from search_spaces.contracts import TrialResult
from tests.chaos.checks import Verdict, judge, results_of
from tests.chaos.enduring import Endurance, Endured, NotEnduredError
from tests.chaos.schedules import Schedule
from tests.chaos.services import RayCluster, TrackingServer

QUIET = Schedule(-1, ())


@dataclass(frozen=True)
class World:
    """Where schedules are endured, one after the other."""

    root: Path
    cluster: RayCluster
    server: TrackingServer
    quiet: dict[str, TrialResult]
    quiet_s: float

    def endure(self, schedule: Schedule) -> tuple[Endured | None, Verdict]:
        """Run one sweep under a schedule and judge it."""
        name = f"seed{schedule.seed}"
        one = Endurance(self.root, schedule, self.cluster, self.server, name)
        try:
            endured = one.run()
        except (NotEnduredError, TimeoutError) as error:
            return None, Verdict((), (), (f"not endured: {error}",))
        return endured, judge(endured, self.quiet, self.server.database)


@contextmanager
def world(root: Path) -> Iterator[World]:
    """Start everything, run the sweep once undisturbed, and end everything afterwards.

    Args:
        root: Empty; gets all files.
    """
    with ended_with_us(), TrackingServer(root) as server, RayCluster(root) as cluster:
        from tests.orchestrator.sweeps import write_data  # loads torch: while these two start

        write_data(root)
        cluster.complete()
        server.wait()
        quiet = Endurance(root, QUIET, cluster, server, "quiet").run()
        results = results_of(quiet.store)
        good = judge(quiet, results, server.database)
        assert good.is_good and results, good.text
        yield World(root, cluster, server, results, quiet.seconds)


@contextmanager
def ended_with_us() -> Iterator[None]:
    """A SIGTERM ends what was started, too."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
