"""The table of all presets' settings in docs/method.md, made from the presets themselves.

``python -m search_spaces.preset_table`` prints it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from search_spaces.presets import PRESETS
from search_spaces.recipe_specs import RecipeSpec
from search_spaces.schedules import GeometricSchedule, LinearSchedule
from search_spaces.sweep import SweepSpec
from search_spaces.task_specs import TaskSpec

_TASKS = (
    {"name": "GLUE", "source": {"kind": "glue-hub", "task": "mnli"}},
    {"name": "SQuAD", "source": {"kind": "squad-hub"}},
    {"name": "MLM", "source": {"kind": "text", "train": "train.txt", "report": "report.txt"}},
)
Column = Callable[[SweepSpec], str]


def preset_table() -> str:
    """Return two Markdown tables: each preset's settings, and the recipes that presets bring."""
    specs = {name: _filled(name) for name in PRESETS}
    rows = [
        [f"`{name}`", *(show(spec) for show in _COLUMNS.values())] for name, spec in specs.items()
    ]
    recipes = [
        [f"`{name}`", task.name, *_recipes(spec, task)]
        for name, spec in specs.items()
        if "recipe" in PRESETS[name]
        for task in spec.tasks
    ]
    return "\n\n".join(
        [
            _markdown(["preset", *_COLUMNS], rows),
            _markdown(["preset", "task", "length", "rounds", "finals and dense"], recipes),
        ]
    )


def _filled(name: str) -> SweepSpec:
    """Return a sweep of one task of each kind under a preset."""
    own: dict[str, Any] = {"recipe": {"epochs": 1, "learning_rate": 1}}
    return SweepSpec.model_validate(
        {
            "name": "table",
            "preset": name,
            "models": [{"name": "model", "source": "model"}],
            "tasks": list(_TASKS),
            "seeds": [1, 2, 3],
            **({} if "recipe" in PRESETS[name] else own),
        }
    )


def _schedule(spec: SweepSpec) -> str:
    schedule = spec.schedule
    if isinstance(schedule, LinearSchedule):
        rounding = ", torch's rounding" if schedule.rounding == "torch" else ""
        return f"{schedule.step:.0%} of the original x {schedule.rounds}{rounding}"
    assert isinstance(schedule, GeometricSchedule), "no preset writes levels out"
    return f"{schedule.rate:.0%} of what remains x {schedule.rounds}"


def _rewind(spec: SweepSpec) -> str:
    rewind = spec.rewind
    late = f"step {rewind.step}" if rewind.step else f"epoch {rewind.epochs}"
    place = {"theta0": "theta_0", "none": "nowhere", "late": late}[rewind.kind]
    judged = ", judged at theta_0" if rewind.finals == "theta0" else ""
    return f"{place}{judged}"


def _inherits(spec: SweepSpec) -> str:
    search = spec.search_recipe_of(spec.tasks[0])
    parts = ["mask"]
    parts += ["all weights"] if spec.rewind.kind == "none" else []
    parts += ["head"] if search.head == "carry" else []
    parts += ["random streams"] if search.rng == "continue" else []
    return ", ".join(parts)


def _first_prune(spec: SweepSpec) -> str:
    return {"trained": "trained", "untrained": "theta_0"}.get(spec.first_prune, "MLM: theta_0")


def _replicates(spec: SweepSpec) -> str:
    return "a mask a seed" if spec.replicate == "lineage" else "one mask, n seeds"


def _chooses(spec: SweepSpec) -> str:
    if spec.splits.select.kind == "report":
        return f"report ({spec.splits.report})"
    return "held out of train"


_COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        "method": lambda spec: ", ".join(spec.methods),
        "prunes": _schedule,
        "rewinds to": _rewind,
        "a round inherits": _inherits,
        "first prune": _first_prune,
        "replicates": _replicates,
        "chooses on": _chooses,
        "verdict": lambda spec: spec.verdict.rule,
        "prunable": lambda spec: spec.models[0].prunable,
    }
)


def _recipes(spec: SweepSpec, task: TaskSpec) -> list[str]:
    search, final = spec.search_recipe_of(task), spec.recipe_of(task)
    return [str(task.max_length), _recipe(search), _recipe(final)]


def _recipe(recipe: RecipeSpec) -> str:
    """Return length, batch, learning rate and horizon in words."""
    length = f"{recipe.train_steps:,} steps" if recipe.train_steps else f"{recipe.epochs:g} epochs"
    horizon = "the end"
    if recipe.lr_horizon_steps:
        horizon = f"{recipe.lr_horizon_steps:,} steps"
    elif recipe.lr_horizon_epochs:
        horizon = f"{recipe.lr_horizon_epochs:g} epochs"
    return f"{length}, batch {recipe.batch_size}, {recipe.learning_rate:g} to 0 at {horizon}"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(preset_table())
