"""The commands that ask MLflow and nothing else: `tickets best` and `tickets lineage`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from orchestrator.arguments import AsJson
from orchestrator.console import make_console
from orchestrator.screens import show_lineage, show_tickets

app = typer.Typer()
Uri = Annotated[str, typer.Option(help="MLflow tracking URI.", envvar="MLFLOW_TRACKING_URI")]
Experiment = Annotated[str, typer.Option(help="MLflow experiment.")]


@app.command()
def best(
    uri: Uri,
    experiment: Experiment = "tickets",
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    rule: Annotated[str | None, typer.Option(help="Verdict rule; default: the sweep's.")] = None,
    min_sparsity: Annotated[float, typer.Option(help="Fraction in [0, 1).")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Ask MLflow alone for the sparsest matching tickets."""
    from orchestrator.queries import best as best_tickets

    found = best_tickets(uri, experiment, task=task, rule=rule, min_sparsity=min_sparsity)
    if as_json:
        typer.echo(json.dumps([vars(ticket) for ticket in found], indent=2))
        return
    show_tickets(make_console(), found)


@app.command()
def lineage(
    key: Annotated[str, typer.Argument(help="First characters of a trial's key.")],
    uri: Uri,
    experiment: Experiment = "tickets",
    as_json: AsJson = False,
) -> None:
    """Show from MLflow alone the chain of trials that a ticket came from."""
    from orchestrator.queries import lineage as chain

    rows = chain(uri, experiment, key)
    if as_json:
        typer.echo(json.dumps([vars(row) for row in rows], indent=2))
        return
    show_lineage(make_console(), rows)
