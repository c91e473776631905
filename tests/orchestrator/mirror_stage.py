"""A server of MLflow, a proxy before it, and a small sweep to mirror through it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.store import Store
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_listener import TrackingListener
from search_spaces.contracts import TrialResult
from search_spaces.errors import UserError
from search_spaces.trial import Trial
from tests.orchestrator.factories import make_lineage
from tests.orchestrator.mirrored import outcome
from tests.orchestrator.mlflow_content import experiment_content
from tests.orchestrator.mlflow_server import FaultyProxy, MlflowServer
from tests.orchestrator.small_worlds import make_sweep, small_world

PATIENCE_S = 300.0
World = tuple[Store, list[Trial], list[TrialResult]]


@dataclass(frozen=True)
class Stage:
    """A server, a proxy before it, and what there is to mirror."""

    folder: Path
    server: MlflowServer
    proxy: FaultyProxy
    world: World

    def content(self, experiment: str) -> list[dict[str, Any]]:
        return experiment_content(self.folder / "mlflow.db", experiment, self.folder / "artifacts")

    def listener(self, experiment: str, uri: str = "", **options: Any) -> TrackingListener:
        tracker = MlflowTracker(uri or self.proxy.uri, experiment, "small", "hash", 60)
        options = {"say": lambda _: None, "pause_s": 0.1, **options}
        return TrackingListener(tracker, make_sweep(), self.world[0], **options)

    def mirror(self, experiment: str, uri: str = "") -> bool:
        """Mirror all as one driver does; return whether it got to its end."""
        try:
            listener = self.listener(experiment, uri)
        except UserError:  # MLflow fails before the sweep begins: people run it again
            return False
        tell(listener, self.world)
        return listener.close(PATIENCE_S)


def world_of(store: Store) -> World:
    """Return what a sweep finished: two rounds with files in the store, and scores without."""
    trials, results = small_world()
    rounds = make_lineage(num_rounds=2)
    finals = [trial for trial in trials if trial.kind != "control"]
    finished = [store.read(trial.key) for trial in rounds]
    found = [*(one for one in finished if one), *(results[trial.key] for trial in finals)]
    return store, [*rounds, *finals], found


def tell(listener: TrackingListener, world: World) -> None:
    for trial, result in zip(*world[1:], strict=True):
        listener.succeeded(trial, result)
    listener.finished(outcome(len(world[1])))


def wait_until(holds: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)
