"""The commands `tickets card` and `tickets registry`: look at what a search has registered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.arguments import AsJson
from orchestrator.console import make_console
from orchestrator.report_text import show_percent, show_score, show_signed
from orchestrator.screens import make_table
from search_spaces.places import masked

_NUMBERS = (  # tags
    *("sparsity", "num_seeds"),
    *("select.mean", "difference", "report.mean", "report.difference"),
)
app = typer.Typer()


@dataclass(frozen=True)
class RegisteredTicket:
    """A version of a registered model; numbers are None where nothing was noted.

    ``status`` is withdrawn where no sweep holds the ticket for matching any longer.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    status: str
    sparsity: float | None
    num_seeds: int | None
    metric: str
    select_mean: float | None
    difference: float | None
    report_mean: float | None
    report_difference: float | None
    rule: str
    method: str
    sweep: str
    flags: tuple[str, ...]
    mask_sha256: str


@app.command()
def card(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/ticket, a ticket's folder, or "
            "a run's id.",
        ),
    ],
    uri: Annotated[
        str | None, typer.Option(help="MLflow tracking URI.", envvar="MLFLOW_TRACKING_URI")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a ticket's model card; with --json what it says as data."""
    from orchestrator.ticket_files import find_ticket

    found = find_ticket(ref, uri)
    if as_json:
        typer.echo(found.info().model_dump_json(indent=2))
        return
    from rich.markdown import Markdown  # loads a parser that no other command needs

    make_console().print(Markdown(found.card()))


@app.command()
def registry(
    uri: Annotated[str, typer.Option(help="MLflow tracking URI.", envvar="MLFLOW_TRACKING_URI")],
    as_json: AsJson = False,
) -> None:
    """List the registered tickets with their aliases, sparsest of each model and task first."""
    found = registered_tickets(uri)
    if as_json:
        typer.echo(json.dumps([vars(ticket) for ticket in found], indent=2))
        return
    _show(make_console(), found, uri)


def registered_tickets(uri: str) -> list[RegisteredTicket]:
    """Return every registered ticket, by name, sparsest first.

    Raises:
        UserError: MLflow does not answer.
    """
    from orchestrator.registry_versions import number_of, search_versions, ticket_models
    from orchestrator.tracking_client import explained, open_existing

    client = open_existing(uri)
    found: list[RegisteredTicket] = []
    with explained(uri):
        for model in ticket_models(client):
            for version in search_versions(client, f"name = '{model.name}'"):
                number = int(version.version)
                named = (a for a, at in model.aliases.items() if int(at) == number)
                numbers = {name: number_of(version.tags, name) for name in _NUMBERS}
                aliases = tuple(sorted(named))
                found.append(_ticket(model.name, number, aliases, version.tags, numbers))
    return sorted(found, key=lambda one: (one.name, -(one.sparsity or 0), one.version))


def _ticket(
    name: str,
    version: int,
    aliases: tuple[str, ...],
    tags: Mapping[str, str],
    numbers: Mapping[str, float | None],
) -> RegisteredTicket:
    num_seeds = numbers["num_seeds"]
    return RegisteredTicket(
        name=name,
        version=version,
        aliases=aliases,
        status=tags.get("status", ""),
        sparsity=numbers["sparsity"],
        num_seeds=None if num_seeds is None else round(num_seeds),
        metric=tags.get("metric", ""),
        select_mean=numbers["select.mean"],
        difference=numbers["difference"],
        report_mean=numbers["report.mean"],
        report_difference=numbers["report.difference"],
        rule=tags.get("rule", ""),
        method=tags.get("method", ""),
        sweep=tags.get("sweep", ""),
        flags=tuple(filter(None, tags.get("flags", "").split(","))),
        mask_sha256=tags.get("mask_sha256", ""),
    )


def _show(console: Console, tickets: Sequence[RegisteredTicket], uri: str) -> None:
    if not tickets:
        console.print(
            f"No ticket is registered at {masked(uri)}. 'tickets run' registers a sweep's winners.",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
        return
    for name, own in groupby(tickets, key=lambda one: one.name):
        console.print(_table(name, list(own)))
    console.print(
        "Load one with load_ticket('models:/MODEL@ALIAS') or 'models:/MODEL/V'; its card: tickets "
        "card models:/MODEL@ALIAS. Chosen on select; 'vs dense' is the mean difference there.",
        highlight=False,
        soft_wrap=True,
    )


def _table(name: str, tickets: Sequence[RegisteredTicket]) -> Table:
    """Return the table of one registered model."""
    numbers = ("<sparsity", "<n", "<select", "<vs dense", "<report")
    table = make_table(name, "<v", "aliases", "method*", *numbers)
    for one in tickets:
        is_over = one.status == "withdrawn"
        table.add_row(
            str(one.version),
            "withdrawn" if is_over else "\n".join(f"@{alias}" for alias in one.aliases),
            escape(one.method),
            show_percent(one.sparsity),
            str(one.num_seeds or ""),
            show_score(one.select_mean),
            show_signed(one.difference),
            show_score(one.report_mean),
            style="dim" if is_over else None,
        )
    return table
