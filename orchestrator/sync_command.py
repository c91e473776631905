"""The command `tickets sync`: bring MLflow in line with the store and the journal."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.arguments import AsJson, SweepPath
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from search_spaces.canonical import short
from search_spaces.places import masked

if TYPE_CHECKING:  # it imports MLflow
    from orchestrator.sync_sweep import SyncReport

MAX_SHOWN = 20


def sync(
    sweep: SweepPath,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is to do; exit code 1 if anything is.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read every file of the runs, also where MLflow keeps them on a server or in an "
            "object store; else those are compared by size.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Mend what MLflow lacks, or says otherwise than the store; what is right stays as it is.

    Missing runs are made, deleted ones restored, values, tags and files that are missing or were
    changed by hand put right; of an ended sweep also verdicts, registered tickets and the report
    that lies in its folder. Runs of others, and what people added to ours, are left alone.
    Where the verdicts of another set of trials of this name are the current ones, they stay so.
    May be repeated, and may run beside 'tickets run'.
    """
    from orchestrator.syncing import check_mirror, sync_mirror

    context = SweepContext.open(sweep)
    work = check_mirror if check else sync_mirror
    report = work(context, Store(context.spec.store), verify)
    if as_json:
        said = asdict(report) | {"sweep": context.spec.name, "is_check": check}
        typer.echo(json.dumps(said, indent=2))
    else:
        typer.echo("\n".join(_lines(context, report, check)))
    if report.num_left or (check and report.entries):
        raise typer.Exit(1)


def _lines(context: SweepContext, report: SyncReport, check: bool) -> Iterable[str]:
    place = f"MLflow at {masked(context.spec.tracking.uri)}, experiment {report.experiment}"
    for entry in report.entries[:MAX_SHOWN]:
        key = f" ({short(entry.key)})" if entry.key else ""
        yield f"{entry.name}{key}: {entry.problem}: {'to be ' if check else ''}{entry.remedy}."
    if (num := len(report.entries) - MAX_SHOWN) > 0:
        yield f"{num} more; all of them: tickets sync --json"
    if not report.entries:
        yield f"{place}: all {report.num_trials} committed trials are there. Nothing to do."
    else:
        done = "to do" if check else f"done, {report.num_left} left"
        yield f"{place}: {report.num_trials} committed trials, {len(report.entries)} {done}."
    if not report.are_files_read:
        yield "Files were compared by size, since MLflow keeps them elsewhere: --verify reads them."
    if not report.has_verdicts:
        yield "The sweep has not ended: its verdicts come with its end."
    if report.is_superseded:
        yield (
            f"The verdicts of another set of trials of the name {context.spec.name} are the "
            "current ones, and stay so: 'tickets run' makes this sweep's the current ones."
        )
