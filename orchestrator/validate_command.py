"""The command `tickets validate`: is a sweep fit to be planned, and what does it name?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from orchestrator.arguments import SweepPath
from orchestrator.sweep_context import SweepContext
from search_spaces.canonical import short
from search_spaces.errors import SpecError
from search_spaces.loading import show
from search_spaces.places import masked


def validate(
    sweep: SweepPath,
    show_all: Annotated[
        bool, typer.Option("--show", help="Print the sweep with presets and defaults filled in.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for programs, faults too.")
    ] = False,
) -> None:
    """Check a sweep, its models and its data; list every fault at once.

    Models and data are looked at when the file itself is sound: their faults are a list of
    their own.
    """
    try:
        context = SweepContext.open(sweep)
    except SpecError as error:
        if not as_json:
            raise
        faults = [asdict(fault) for fault in error.faults]
        typer.echo(json.dumps({"is_valid": False, "faults": faults}, indent=2))
        raise typer.Exit(error.exit_code) from None
    if as_json:
        typer.echo(json.dumps(_data(context, show_all), indent=2))
        return
    if show_all:
        typer.echo(masked(show(context.spec)))
    for name, model in context.models.items():
        where = "with" if model.prunable.has_pooler else "without"
        typer.echo(
            f"model {name}: {model.identity.num_prunable:,} prunable weights in "
            f"{len(model.prunable.names)} matrices, {where} the pooler; "
            f"theta_0 {short(model.identity.theta0_sha256)}"
        )
    for name, task in context.tasks.items():
        typer.echo(
            f"task {name}: {task.num_train:,} train, {task.num_select:,} select, "
            f"{task.num_report:,} report examples; metric {task.identity.metric}"
        )
    for sentence in [*context.given.sentences(context.spec), *_warnings(context)]:
        typer.echo(sentence)
    typer.echo(f"{sweep}: valid, {len(context.trials)} trials")


def _data(context: SweepContext, show_all: bool) -> dict[str, Any]:
    models = {name: one.identity.model_dump() for name, one in context.models.items()}
    tasks = {
        name: {
            **task.identity.model_dump(),
            "num_train": task.num_train,
            "num_select": task.num_select,
            "num_report": task.num_report,
        }
        for name, task in context.tasks.items()
    }
    return {
        "is_valid": True,
        "faults": [],
        "warnings": _warnings(context),
        "name": context.spec.name,
        "num_trials": len(context.trials),
        "models": models,
        "tasks": tasks,
        **({"sweep": masked(show(context.spec))} if show_all else {}),
    }


def _warnings(context: SweepContext) -> list[str]:
    """Return what is allowed but hardly meant: batches larger than a task has examples."""
    found = {
        (trial.main_role.task, trial.spec.recipe.batch_size)
        for trial in context.trials
        if trial.spec.recipe.batch_size > context.tasks[trial.main_role.task].num_train
    }
    return [
        f"warning: task {task}: batch_size {size:,} is more than the "
        f"{context.tasks[task].num_train:,} examples that it trains on: each step is a whole epoch."
        for task, size in sorted(found)
    ]
