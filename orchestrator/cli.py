"""The command `tickets`. Answers in about a second where nothing has to be trained.

Exit codes: 0 done, 1 trials failed, 2 bad input, 75 cluster or store lost, 130 stopped by Ctrl-C,
143 by SIGTERM.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from orchestrator import (
    compare_commands,
    doctor_commands,
    mask_commands,
    query_commands,
    registry_commands,
    run_command,
    simulate_command,
    steering_commands,
    submit_commands,
    sync_command,
    transfer_commands,
    validate_command,
    watch_commands,
)
from orchestrator.arguments import AsJson, SweepPath
from orchestrator.choices import planned
from orchestrator.console import make_console
from orchestrator.driver_life import away_line
from orchestrator.ending import report_folder
from orchestrator.failing import failure_fields, failure_histories
from orchestrator.journal_lock import has_ended
from orchestrator.journal_reader import open_reader
from orchestrator.mirror_lag import describe_lag, lag_path, read_lag
from orchestrator.screens import plan_data, show_plan, show_status
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext, journal_path
from search_spaces.canonical import canonical_json, short
from search_spaces.contracts import TrialState
from search_spaces.errors import SpecError, UserError
from search_spaces.explain import explain_difference
from search_spaces.loading import load_sweep

app = typer.Typer(
    help="Search for winning lottery tickets in BERT: sweeps of fine-tune, prune, rewind.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


# The order of the help: looking before running.
app.command()(validate_command.validate)


@app.command()
def plan(sweep: SweepPath, as_json: AsJson = False) -> None:
    """Show what a run would do to each trial, why, and what it would cost."""
    context = SweepContext.open(sweep)
    made = planned(context, Store(context.spec.store))
    if as_json:
        typer.echo(json.dumps(plan_data(made), indent=2))
        return
    show_plan(make_console(), context.spec.name, made)


app.command()(run_command.run)


@app.command()
def report(
    sweep: SweepPath,
    folder: Annotated[
        Path | None, typer.Option(help="Where to write; default: reports/NAME beside the store.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the sweep's report, one HTML file and its figures, and log it to MLflow."""
    context = SweepContext.open(sweep)
    spec, place = context.spec, folder or report_folder(context.spec)
    from orchestrator.finishing import ended, tracker_of
    from orchestrator.report import write_report
    from orchestrator.source_masks import source_overlaps

    store = Store(spec.store)
    overlaps = source_overlaps(spec, context.trials, store)
    found = ended(context, store)
    page, *beside = write_report(spec, context.trials, *found, place, overlaps)
    if as_json:  # said first: MLflow may be down, the report is there anyway
        figures = [str(path) for path in beside if path.suffix == ".png"]
        tables = [str(path) for path in beside if path.suffix != ".png"]
        said = {"report": str(page), "figures": figures, "tables": tables}
        typer.echo(json.dumps(said, indent=2))
    else:
        typer.echo(f"Report: {page}")
    tracker_of(context).log_report([page, *beside])


@app.command()
def status(
    sweep: SweepPath,
    as_json: AsJson = False,
    address: submit_commands.Where = None,
    insecure: submit_commands.Insecure = False,
    python: submit_commands.Python = sys.executable,
) -> None:
    """Show the state of every trial, from the sweep's journal; works while it runs."""
    if address:
        submit_commands.show_status(sweep, address, as_json, insecure, python)
        return
    path = journal_path(load_sweep(sweep))
    with open_reader(path) as reader:
        rows, counts, meta = reader.trials(), reader.counts(), reader.meta()
        failures = failure_histories(reader.events_of("failed"))
    lag, now = read_lag(lag_path(path)), time.time()
    if as_json:
        data = [{**vars(row), **failure_fields(row, failures.get(row.key))} for row in rows]
        said = {"sweep": meta["name"], "trials": data, "mirror": lag and lag.fields(now)}
        typer.echo(json.dumps(said, indent=2, default=str))
        return
    show_status(make_console(), meta["name"], rows, counts, has_ended(path), failures)
    told = [away_line(meta, path, now), describe_lag(lag, now, counts[TrialState.SUCCEEDED])]
    typer.echo("\n".join(filter(None, told)), nl=any(told))


@app.command("explain-key")
def explain_key(
    sweep: SweepPath,
    key: Annotated[str, typer.Argument(help="First characters of a trial's key.")],
    other: Annotated[
        str | None, typer.Argument(help="A second key: print why they differ.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a trial's key is made of, or why two keys differ."""
    context = SweepContext.open(sweep)
    first = context.trial(key).spec
    if other is None:
        typer.echo(json.dumps(json.loads(canonical_json(first)), indent=2))
        return
    rows = explain_difference(first, context.trial(other).spec)
    if as_json:
        typer.echo(json.dumps([list(row) for row in rows], indent=2))
        return
    table = Table("field", short(key), short(other))
    for field, left, right in rows:
        table.add_row(field, str(left), str(right))
    make_console().print(table)


# Listed after the commands above, in this order.
app.add_typer(submit_commands.app)
app.add_typer(watch_commands.app)
app.add_typer(steering_commands.app)
app.command()(doctor_commands.doctor)
app.command()(sync_command.sync)
app.add_typer(query_commands.app)
app.command()(simulate_command.simulate)
app.command()(transfer_commands.transfer)
app.add_typer(compare_commands.app)
app.add_typer(registry_commands.app)
app.add_typer(mask_commands.app, name="mask")


def main() -> None:
    """Run the command; every fault of the user's ends with one message and its exit code."""
    try:
        app(standalone_mode=True)
    except SpecError as error:
        for fault in error.faults:
            typer.echo(str(fault), err=True)
        num = len(error.faults)
        typer.echo(f"{num} fault{'s' if num > 1 else ''} found.", err=True)
        sys.exit(error.exit_code)
    except UserError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
