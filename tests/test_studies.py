"""The paper's whole study as sweeps: they expand and plan as its arithmetic says, without a hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.paper_study import SHAPES, model_facts, task_facts
from orchestrator.plan import Plan, make_plan
from orchestrator.shapes import Shapes
from orchestrator.store import Store
from search_spaces.expand import expand
from search_spaces.loading import load_sweep
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial

EXAMPLES = Path(__file__).parents[1] / "examples"
EPOCH_STEPS = 29_683  # of the nine GLUE tasks together, batch 32


def study(name: str, tmp_path: Path) -> tuple[SweepSpec, list[Trial], Plan]:
    """Return an example with its trials and its plan on an empty store."""
    spec = load_sweep(EXAMPLES / f"chen2020-{name}.yaml")
    models = {model.name: model_facts(model.name) for model in spec.models}
    trials = expand(spec, models, {task.name: task_facts(task) for task in spec.tasks})
    return spec, trials, make_plan(trials, Store(str(tmp_path)), Shapes.of(spec))


def kinds(trials: list[Trial], model: str) -> Mapping[str, int]:
    """Return how many trials of a model have each kind of role."""
    return Counter(
        kind
        for trial in trials
        for kind in {role.kind for role in trial.roles if role.model == model}
    )


@pytest.mark.parametrize("model", SHAPES)
def test_prunable_sets_have_the_published_sizes(model: str) -> None:
    published = {"bert-base": 85_524_480, "bert-large": 303_038_464}
    assert model_facts(model).identity.num_prunable == published[model]


def test_table_2_has_the_papers_trials_and_steps(tmp_path: Path) -> None:
    """Eleven searches, then at nine levels five runs of the ticket and of three controls."""
    spec, trials, plan = study("table2", tmp_path)
    # MLM's first prune is untrained: its lineage trains eight rounds, the others nine.
    expected = {"dense": 55, "round": 10 * 9 + 8, "final": 11 * 9 * 5, "control": 3 * 11 * 9 * 5}
    for model in SHAPES:
        assert kinds(trials, model) == expected
    steps = Counter[str]()
    for trial in trials:
        for role in trial.roles:
            if role.model == "bert-base" and role.kind == "round":
                steps[role.task] += trial.spec.num_steps
    glue = sum(num for task, num in steps.items() if task not in ("squad", "mlm"))
    assert glue == 9 * 3 * EPOCH_STEPS
    assert (steps["squad"], steps["mlm"]) == (9 * 22_000, 8 * 10_000)
    assert plan.device == "GPU"
    assert 100 < plan.device_hours < 10_000
    assert {spec.recipe_of(task).batch_size for task in spec.tasks} == {8, 16, 32}


def test_figure_2_is_132_cells_of_three_runs(tmp_path: Path) -> None:
    """Eleven tasks and theta_0 on eleven targets; the diagonal is the tasks' own finals."""
    spec, trials, plan = study("figure2", tmp_path)
    for model in SHAPES:
        cells = {
            (role.source_task, role.task, role.seed)
            for trial in trials
            for role in trial.roles
            if role.kind == "transfer" and role.model == model
        }
        assert len(cells) == (12 * 11 - 11) * 3
    moved = {
        trial.spec.num_removed
        for trial in trials
        for role in trial.roles
        if role.kind == "transfer" and role.model == "bert-base"
    }
    assert moved == {59_867_136}  # 70% of 85,524,480
    assert spec.replicate == "finetune"
    assert plan.num_run + plan.num_wait == len(trials)


def test_the_figures_lineages_are_the_tables(tmp_path: Path) -> None:
    """In one store the searches of both studies are trained once."""
    _, table, _ = study("table2", tmp_path)
    _, figure, _ = study("figure2", tmp_path)
    known = {trial.key for trial in table}
    rounds = [t for t in figure if any(role.kind == "round" for role in t.roles)]
    assert rounds and all(trial.key in known for trial in rounds)


def test_the_readme_quotes_the_cost_models_hours(tmp_path: Path) -> None:
    """Table 2 and Figure 2 for BERT-base, then for BERT-large, in whole GPU-hours."""
    hours = {}
    for name in ("table2", "figure2"):
        _, trials, plan = study(name, tmp_path)
        model_of = {trial.key: trial.main_role.model for trial in trials}
        for model in SHAPES:
            seconds = sum(row.seconds for row in plan.rows if model_of[row.key] == model)
            hours[model, name] = f"{seconds / 3600:.0f}"
    text = " ".join((EXAMPLES.parent / "README.md").read_text().split())
    base, large = ([hours[model, name] for name in ("table2", "figure2")] for model in SHAPES)
    assert f"cost model {base[0]} and {base[1]} GPU-hours for BERT-base" in text
    assert f"{large[0]} and {large[1]} for BERT-large" in text
