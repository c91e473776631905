"""What a sweep is mirrored from, and what MLflow then has."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.judging import judge_sweep
from orchestrator.listeners import SweepOutcome
from orchestrator.queries import best
from orchestrator.store import Store
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_client import search_all
from search_spaces.contracts import TrialResult, TrialState
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial
from tests.orchestrator.factories import finish, make_lineage
from tests.orchestrator.small_worlds import make_sweep

World = tuple[list[Trial], dict[str, TrialResult]]


def runs_of(uri: str, experiment: str, condition: str = "") -> list[Run]:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    return search_all(client, found.experiment_id, condition)


def committed_lineage(tmp_path: Path) -> tuple[Store, list[Trial], list[TrialResult]]:
    store, trials = Store(str(tmp_path / "store")), make_lineage()
    results = [finish(store.uri, trial, "a1") for trial in trials]
    for trial, result in zip(trials, results, strict=True):
        store.commit(result, trial.spec)
    return store, trials, results


def outcome(num: int) -> SweepOutcome:
    counts = dict.fromkeys(TrialState, 0) | {TrialState.SUCCEEDED: num}
    return SweepOutcome(counts, {}, False)


def log(tracker: MlflowTracker, world: World, spec: SweepSpec | None = None) -> None:
    judged = judge_sweep(spec or make_sweep(), *world)
    tracker.log_verdicts(judged, "noninferior", "lineage")


def sparsities(uri: str, experiment: str) -> list[float]:
    return [ticket.sparsity for ticket in best(uri, experiment)]
