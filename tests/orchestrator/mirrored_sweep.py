"""A finished sweep whose mirror is spoiled and put right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from orchestrator.syncing import SyncReport, check_mirror, sync_mirror
from tests.orchestrator.mirrored import runs_of
from tests.orchestrator.mlflow_content import experiment_content
from tests.orchestrator.sweeps import write_sweep

SMALL: dict[str, Any] = {"seeds": [1, 2], "schedule": {"kind": "levels", "levels": [0.3]}}


class Place:
    """A finished sweep, and its MLflow."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = write_sweep(root, "s", root, **SMALL)
        self.context = SweepContext.open(self.path)
        self.store = Store(self.context.spec.store)
        self.uri = self.context.spec.tracking.uri

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def sync(self) -> SyncReport:
        return sync_mirror(self.context, self.store)

    def check(self) -> SyncReport:
        return check_mirror(self.context, self.store)

    def run(self, index: int = 0, condition: str = "tags.kind = 'final'") -> Run:
        return sorted(runs_of(self.uri, "s", condition), key=lambda run: run.info.run_name)[index]

    def content(self) -> list[dict[str, Any]]:
        """Return what all active runs say."""
        return experiment_content(self.root / "s.db", "s")

    def mended(self) -> tuple[str, str]:
        """Mend the one thing that is wrong, as foretold; return problem and remedy."""
        foretold = self.check().entries
        report = self.sync()
        assert [vars(one) for one in foretold] == [vars(one) for one in report.entries]
        (entry,) = report.entries
        assert not self.sync().entries, "a second time there is nothing to do"
        return entry.problem, entry.remedy
