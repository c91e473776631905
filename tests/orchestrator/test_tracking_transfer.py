"""Transfer tables in a real MLflow on SQLite: a run for each cell, superseded like verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.judging import judge_sweep
from orchestrator.queries import best
from orchestrator.store import Store
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_listener import TrackingListener
from orchestrator.transfer_judging import judge_transfers
from search_spaces.contracts import TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial
from tests.orchestrator.mirrored import outcome, runs_of
from tests.orchestrator.transfer_worlds import finished, run, world

CELLS = "tags.kind = 'transfer-verdict'"
World = tuple[SweepSpec, list[Trial], dict[str, TrialResult]]


def log(uri: str, experiment: str, made: World, sweep_hash: str = "hash") -> None:
    spec, trials, results = made
    tracker = MlflowTracker(uri, experiment, spec.name, sweep_hash)
    judged, tables = judge_sweep(spec, trials, results), judge_transfers(spec, trials, results)
    tracker.log_verdicts(judged, "noninferior", "lineage", tables)


def by_pair(runs: list[Run]) -> dict[tuple[str, str], Run]:
    return {(one.data.tags["source"], one.data.tags["target"]): one for one in runs}


def test_every_cell_has_a_run_that_can_be_filtered(uri: str) -> None:
    """Judged on select, with the report numbers beside; a stopped cell decides nothing."""
    log(uri, "cells", finished())
    cells = by_pair(runs_of(uri, "cells", CELLS))
    assert len(cells) == 6
    dark, lost = cells["theta0", "a"], cells["b", "a"]
    tags, metrics = dark.data.tags, dark.data.metrics
    told = {name: tags[name] for name in ("model", "state", "dark", "noninferior", "report.dark")}
    assert told == {
        "model": "tiny",
        "state": "judged",
        "dark": "true",
        "noninferior": "true",
        "report.dark": "true",
    }
    assert (tags["sweep"], tags["superseded"], tags["trials"].count(",")) == ("small", "false", 2)
    assert (metrics["n"], metrics["sparsity"], metrics["num_removed"]) == (3, 0.5, 500)
    assert metrics["mean"] == pytest.approx(0.91)
    assert metrics["report.difference_dense"] == pytest.approx(0.1)
    assert metrics["difference_same_task"] == pytest.approx(0.1)
    assert metrics["interval_low"] <= metrics["difference_dense"] <= metrics["interval_high"]
    assert metrics["pvalue"] <= metrics["pvalue_holm"] < 0.05
    assert (lost.data.tags["state"], lost.data.tags["dark"]) == ("lost_futility", "undecided")
    assert lost.data.metrics["n"] == 1 and "std" not in lost.data.metrics
    assert cells["a", "a"].data.tags["state"] == "diagonal"
    (light,) = runs_of(uri, "cells", f"{CELLS} and tags.dark = 'false' and tags.source = 'a'")
    assert light.data.tags["target"] == "b"


def test_best_does_not_see_them(uri: str) -> None:
    log(uri, "best", finished())
    assert {ticket.task for ticket in best(uri, "best")} == {"a", "b"}
    assert len(best(uri, "best")) == 2


def test_logging_twice_makes_no_run_twice_and_an_update_replaces(uri: str) -> None:
    """A cell that has lost a seed is another one; those that are as before stay."""
    spec, trials, results = finished()
    log(uri, "again", (spec, trials, results))
    before = by_pair(runs_of(uri, "again", CELLS))
    log(uri, "again", (spec, trials, results))
    again = by_pair(runs_of(uri, "again", CELLS))
    assert {p: r.info.run_id for p, r in again.items()} == {
        p: r.info.run_id for p, r in before.items()
    }
    lost = next(t for t in trials if t.main_role.label == "transfer:theta0>a:imp:0.5:s2")
    fewer = {key: one for key, one in results.items() if key != lost.key}
    log(uri, "again", (spec, trials, fewer))
    found = runs_of(uri, "again", CELLS)
    assert len(found) == 6
    assert by_pair(found)["theta0", "a"].data.tags["state"] == "undecided"
    assert by_pair(found)["b", "a"].info.run_id == before["b", "a"].info.run_id


def test_those_of_another_set_of_trials_are_superseded(uri: str) -> None:
    """Also where the changed sweep has no transfer any more."""
    spec, trials, results = finished()
    log(uri, "changed", (spec, trials, results))
    plain = spec.model_copy(update={"transfer": None})
    log(uri, "changed", (plain, trials, results), "another")
    old = runs_of(uri, "changed", f"{CELLS} and tags.superseded = 'true'")
    assert len(old) == len(runs_of(uri, "changed", CELLS)) == 6
    assert all("contiguous" not in run.data.tags for run in old)
    log(uri, "changed", (spec, trials, results))
    assert len(runs_of(uri, "changed", f"{CELLS} and tags.superseded = 'false'")) == 6


def test_cells_that_are_not_asked_for_have_no_run(uri: str) -> None:
    spec, trials = world(sources=["theta0"])
    log(uri, "asked", (spec, trials, run(spec, trials)[1]))
    pairs = set(by_pair(runs_of(uri, "asked", CELLS)))
    assert pairs == {("theta0", "a"), ("theta0", "b"), ("a", "a"), ("b", "b")}


def test_the_tables_are_kept_whole_with_the_sweep(uri: str, tmp_path: Path) -> None:
    log(uri, "whole", finished())
    (parent,) = runs_of(uri, "whole", "tags.kind = 'sweep'")
    client = MlflowClient(uri)
    path = client.download_artifacts(parent.info.run_id, "transfer.json", str(tmp_path))
    tables = json.loads(Path(path).read_text())["tables"]
    assert [table["split"] for table in tables] == ["select", "report"]
    assert tables[0]["dark"]["theta0"] == {"num_dark": 1, "num_known": 2, "num_targets": 2}
    assert len(tables[0]["cells"]) == 6


def test_the_listener_mirrors_trials_with_their_source_and_the_cells(
    uri: str, tmp_path: Path
) -> None:
    """It never hears of stopped trials; a later catch-up finds nothing to change."""
    spec, trials, results = finished()
    said = list[str]()
    tracker = MlflowTracker(uri, "listener", spec.name, "hash")
    listener = TrackingListener(tracker, spec, Store(str(tmp_path)), said.append)
    for trial in trials:
        if trial.key in results:
            listener.succeeded(trial, results[trial.key])
    listener.finished(outcome(len(trials)))
    assert listener.close(60)
    assert said == []
    moved = runs_of(uri, "listener", "tags.kind = 'transfer' and tags.source_task = 'theta0'")
    assert len(moved) == 6
    assert all("source_task" not in one.data.tags for one in _of_kind(uri, "final"))
    before = {one.info.run_id for one in runs_of(uri, "listener", CELLS)}
    log(uri, "listener", (spec, trials, results))
    assert {one.info.run_id for one in runs_of(uri, "listener", CELLS)} == before


def _of_kind(uri: str, kind: str) -> list[Run]:
    return runs_of(uri, "listener", f"tags.kind = '{kind}'")
