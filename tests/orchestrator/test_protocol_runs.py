"""Transfers and protocols that keep weights, through the real command on real engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.session import Session
from orchestrator.store import Store
from search_spaces.contracts import TrialResult
from tests.orchestrator.sweeps import make_source, tickets, write_data, write_sweep
from tests.workers.requests import make_task

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SEEDS = [1, 2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and two tasks over the same texts: a word occurs, and is the text long?"""
    root = tmp_path_factory.mktemp("protocols")
    write_data(root)
    folder = make_task(root / "length", num_train=160)
    for path in folder.iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["label"] = "long" if len(row["text"].split()) > 6 else "short"
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return root


@pytest.fixture(scope="module")
def cluster(ray_session: Session) -> str:
    return str(ray.get_runtime_context().gcs_address)


def run(root: Path, cluster: str, name: str, **changes: Any) -> dict[str, TrialResult]:
    """Run a sweep to its end and return its results by key."""
    sweep = write_sweep(root, name, root, seeds=SEEDS, **changes)
    done = tickets("run", str(sweep), cwd=root, cluster=cluster)
    assert done.returncode == 0, done.stdout + done.stderr
    return {r.result.trial_key: r.result for r in Store(str(root / f"{name}-store")).records()}


def test_a_transfer_table_from_the_file_to_the_screen(root: Path, cluster: str) -> None:
    """Two tasks and theta_0: trained once, shown at the end and on request, and then complete."""
    tasks = [
        {"name": name, "source": make_source(root / folder), "max_length": 24}
        for name, folder in (("toy", "data"), ("length", "length"))
    ]
    table = {"sparsity": 0.5, "sources": ["toy", "length", "theta0"], "adaptive": True}
    results = run(root, cluster, "table", tasks=tasks, transfer=table)
    sweep = root / "table.yaml"
    assert len(results) == 2 * 2 * 3 + 4 * 2  # nothing of this table is clearly lost
    shown = tickets("transfer", str(sweep), cwd=root)
    assert "transfer at 50%, on select" in shown.stdout
    assert "HEAVY []" in shown.stderr
    data = json.loads(tickets("transfer", str(sweep), "--json", cwd=root).stdout)
    assert [one["split"] for one in data["tables"]] == ["select", "report"]
    cells = {(c["source"], c["target"]): c for c in data["tables"][0]["cells"]}
    assert cells["toy", "toy"]["state"] == "diagonal"
    assert all(cell["n"] == len(SEEDS) for cell in cells.values())
    (overlaps,) = data["overlaps"]
    assert overlaps["names"] == ["toy", "length", "theta0"]
    assert [overlaps["values"][i][i] for i in range(3)] == [1.0, 1.0, 1.0]
    assert 0 < overlaps["values"][0][1] < 1
    again = tickets("run", str(sweep), cwd=root)
    assert again.stdout.startswith("0 to run")
    assert "HEAVY []" in again.stderr


@pytest.mark.parametrize("preset", ["late-rewind", "standard"])
def test_weights_go_from_trial_to_trial(preset: str, root: Path, cluster: str) -> None:
    """The driver hands each trial the weights that another one kept, checked by their hash."""
    changes: dict[str, Any] = {"rewind": {"step": 4}} if preset == "late-rewind" else {}
    results = run(root, cluster, preset, preset=preset, **changes)
    steps = {result.num_steps for result in results.values()}
    assert len(results) == 3 * len(SEEDS)
    assert len(steps) == (2 if preset == "late-rewind" else 1)
    best = tickets(
        "best", "--uri", f"sqlite:///{root}/{preset}.db", "--experiment", preset, "--json", cwd=root
    )
    assert all("not_theta0" in found["flags"] for found in json.loads(best.stdout))
    listed = tickets("registry", "--uri", f"sqlite:///{root}/{preset}.db", "--json", cwd=root)
    assert json.loads(listed.stdout) == []
    kept = [name for result in results.values() for name in result.artifacts if "weights" in name]
    assert len(kept) == len(SEEDS) * (1 if preset == "late-rewind" else 2)


def test_a_sweep_without_a_table_says_how_to_get_one(root: Path) -> None:
    sweep = write_sweep(root, "none", root)
    done = tickets("transfer", str(sweep), cwd=root)
    assert done.returncode == 2
    assert "has no transfer" in done.stderr and "transfer: {sparsity: 0.5}" in done.stderr
    assert "Traceback" not in done.stderr
    wrong = tickets("transfer", str(sweep), "--split", "dev", cwd=root)
    assert wrong.returncode == 2 and "Use select or report" in wrong.stderr
