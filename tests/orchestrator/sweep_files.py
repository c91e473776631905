"""What sweeps that the real command ran have left: results, markers, runs, processes."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.store import Store
from orchestrator.tracking_client import search_all
from search_spaces.contracts import TrialResult
from tests.chaos.processes import in_group


def store_of(sweep: Path) -> Store:
    return Store(str(sweep.with_name(f"{sweep.stem}-store")))


def results_of(sweep: Path) -> dict[str, TrialResult]:
    store = store_of(sweep)
    return {r.result.trial_key: r.result for r in store.records()}


def committed(sweep: Path) -> dict[str, int]:
    """Return when each committed trial's marker was written, by key."""
    markers = Path(store_of(sweep).uri).glob("results/*/COMMITTED.json")
    return {marker.parent.name: marker.stat().st_mtime_ns for marker in markers}


def runs_of(sweep: Path, condition: str) -> list[Run]:
    client = MlflowClient(f"sqlite:///{sweep.with_suffix('.db')}")
    found = client.get_experiment_by_name(sweep.stem)
    return search_all(client, found.experiment_id, condition)


def living(group: int) -> list[str]:
    """Return the names of a process group's processes that have not ended."""
    return [found.name for found in in_group(group)]


def ranks_in(group: int) -> list[str]:
    """Return a run's processes that could train: Ray's own two agents end a minute later."""
    agents = ("ray::DashboardA", "ray::RuntimeEnv")
    return [name for name in living(group) if name.startswith("ray::") and name not in agents]


def max_removed(store: Store) -> int:
    return max(record.spec.num_removed for record in store.records())


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle of a file, whose size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
