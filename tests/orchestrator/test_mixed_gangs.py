"""A sweep whose tasks run on gangs of different size: its plan, its simulation, its run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.session import Session
from orchestrator.listeners import SilentListener
from orchestrator.running import run_on_ray
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from tests.orchestrator.sweeps import tickets, tiny_inputs


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of the same data, cut at different lengths: so they share no trial."""
    root = tmp_path_factory.mktemp("mixed")
    model, source = tiny_inputs(root)
    path = root / "sweep.yaml"
    path.write_text(f"""
name: mixed
models: [{{name: tiny, source: {model}}}]
tasks:
  - {{name: small, source: {source}, max_length: 16}}
  - {{name: large, source: {source}, max_length: 24, resources: {{ranks: 2, micro_batch_size: 4}}}}
seeds: [1, 2]
schedule: {{kind: levels, levels: [0.5]}}
recipe: {{epochs: 1, batch_size: 16, learning_rate: 1.0e-3}}
verdict: {{rule: strict}}
resources: {{gangs: 2}}
store: {root}/store
""")
    return path


def test_plan_and_simulate_know_the_sizes(sweep: Path) -> None:
    """Hours are counted by size; a sweep with max_gpus is simulated on no more than those."""
    root = sweep.parent
    on_gpus = sweep.with_name("gpus.yaml")
    text = sweep.read_text().replace("gangs: 2", "gpus_per_rank: 1, max_gpus: 3")
    on_gpus.write_text(text.replace("\nname: mixed", "\nname: gpus"))
    planned = tickets("plan", str(on_gpus), cwd=root)
    assert "GPU-hours (" in planned.stdout and "on gangs of 2)" in planned.stdout
    done = tickets("simulate", str(on_gpus), "--gpus", "16", "--json", cwd=root)
    figures = json.loads(done.stdout)
    assert (figures["num_slots"], figures["slot"], figures["device"]) == (3, "GPU", "GPU")
    rows = json.loads(tickets("plan", str(on_gpus), "--json", cwd=root).stdout)["rows"]
    assert {(row["num_ranks"], ":large" in row["label"]) for row in rows} == {(1, False), (2, True)}
    hours = sum(row["seconds"] * row["num_ranks"] / 3600 for row in rows)
    assert figures["device_hours"] == pytest.approx(hours)
    refused = tickets("simulate", str(on_gpus), "--gpus", "1", cwd=root)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "Not even one gang fits the cluster: 2 rank(s)" in refused.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_trials_of_one_sweep_run_on_gangs_of_two_sizes(sweep: Path, ray_session: Session) -> None:
    """Each result tells the ranks of its task; nothing else of the sweep is different."""
    context = SweepContext.open(sweep)
    told: list[str] = []
    outcome = run_on_ray(context, SilentListener(), told.append, lambda: None)
    assert outcome.succeeded, outcome.causes
    store = Store(context.spec.store)
    ranks: dict[str, set[int]] = {}
    for trial in context.trials:
        result = store.read(trial.key)
        assert result is not None
        ranks.setdefault(trial.main_role.task, set()).add(result.numerics.num_ranks)
    assert ranks == {"small": {1}, "large": {2}}
