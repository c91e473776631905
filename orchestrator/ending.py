"""What people are shown when a sweep ends: verdicts, the best tickets, places, what to do next."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.judging import judge_sweep
from orchestrator.report_tables import ControlRow, VerdictRow, verdict_rows
from orchestrator.report_text import (
    MISSING,
    OUTCOME_WORDS,
    headline,
    show_percent,
    show_score,
    show_signed,
)
from orchestrator.sweep_context import SweepContext
from orchestrator.transfer_judging import judge_transfers
from orchestrator.transfer_screens import show_transfer
from search_spaces.canonical import short
from search_spaces.contracts import TrialResult
from search_spaces.places import masked
from search_spaces.sweep import SweepSpec


def report_folder(spec: SweepSpec) -> Path:
    """Return where a sweep's report is written: beside a local store, else in this folder."""
    beside = Path() if "://" in spec.store else Path(spec.store).parent
    return beside / "reports" / spec.name


def show_verdicts(
    console: Console,
    context: SweepContext,
    results: Mapping[str, TrialResult],
    failed: Mapping[str, str],
) -> list[VerdictRow]:
    """Print the verdict table and one paragraph for each curve; return the rows shown.

    Args:
        console: Where to print.
        context: The sweep.
        results: Committed results by trial key.
        failed: Why trials failed for good, by key.
    """
    spec = context.spec
    rows = verdict_rows(judge_sweep(spec, context.trials, results, failed), spec.verdict.rule)
    for model in spec.models:
        for task in spec.tasks:
            for method in spec.methods:
                wanted = (model.name, task.name, method)
                own = [row for row in rows if (row.model, row.task, row.method) == wanted]
                if own:
                    console.print(_table(spec, own))
                said = headline(own, spec.verdict.rule, spec.delta_of(task))
                console.print(Text.assemble((" · ".join(wanted), "bold"), f": {said.text}"))
    if rows:
        console.print(f"[dim]{_legend(spec)}[/]\n", highlight=False)
    for table in judge_transfers(spec, context.trials, results):
        show_transfer(console, table)
    return rows


def show_places(
    console: Console, context: SweepContext, sweep: Path, rows: Sequence[VerdictRow]
) -> None:
    """Print where everything is, and the next three commands to try."""
    spec = context.spec
    uri, experiment = spec.tracking.uri, spec.tracking.experiment or spec.name
    tickets, where = _program("tickets"), f"--uri {masked(uri)}"
    if experiment != "tickets":
        where += f" --experiment {experiment}"
    page, shown = report_folder(spec) / "report.html", masked(uri)
    is_server = uri.startswith(("http://", "https://"))
    lines = [
        f"Report:         {page if page.exists() else f'none yet: {tickets} report {sweep}'}",
        f"MLflow:         {shown}, experiment {experiment}",
        "Ray dashboard:  at the address above while a sweep runs; a local Ray ends with it",
        "",
        "Next:",
        f"  {tickets} best {where}",
        f"  {tickets} lineage {_example_key(context, rows)} {where}",
        f"  {tickets} report {sweep}"
        if is_server
        else f"  {_program('mlflow')} ui --backend-store-uri {shown}",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _program(name: str) -> str:
    """Return how to call a program from here: by name, or beside this one where it is not found."""
    return name if shutil.which(name) else str(Path(sys.argv[0]).parent / name)


def _table(spec: SweepSpec, rows: Sequence[VerdictRow]) -> Table:
    first = rows[0]
    dense = _spread(first.dense_mean, first.dense_std)
    title = f"{first.model} · {first.task} · {first.method}: dense {dense} on select"
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD)
    for name in ("sparsity", "n", "select", "vs dense", "matches", "report"):
        table.add_column(name, justify="right")
    for control in spec.controls:
        table.add_column(f"vs {control}", justify="right")
    flagged = any(row.flags for row in rows)
    if flagged:
        table.add_column("flags", overflow="fold")
    for row in rows:
        flags = [", ".join(row.flags)] if flagged else []
        table.add_row(*_cells(spec, row), *flags, style="bold" if row.is_best else None)
    return table


def _cells(spec: SweepSpec, row: VerdictRow) -> list[str]:
    over = {control.name: control for control in row.controls}
    return [
        show_percent(row.sparsity),
        str(row.num_seeds),
        _spread(row.ticket_mean, row.ticket_std),
        show_signed(row.difference),
        ("* " if row.is_best else "") + OUTCOME_WORDS[row.outcomes[spec.verdict.rule]],
        show_score(row.report_mean),
        *(_over(over[name]) for name in spec.controls),
    ]


def _spread(mean: object, std: object) -> str:
    if mean is None:
        return MISSING
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ±{std:.4f}"


def _over(control: ControlRow) -> str:
    if control.beats is None:
        return MISSING
    return f"{'beats' if control.beats else 'no'} {show_signed(control.difference)}"


def _legend(spec: SweepSpec) -> str:
    masks = "A mask for each seed" if spec.replicate == "lineage" else "One mask for all seeds"
    text = f"{masks}; mean ±deviation over n seeds. * the sparsest matching ticket."
    if spec.controls:
        text += " 'beats': the one-sided 95% lower bound of the paired difference is above 0."
    return text


def _example_key(context: SweepContext, rows: Sequence[VerdictRow]) -> str:
    """Return the short key of a best ticket, or of any trial where no level matches."""
    best = {(row.model, row.task, row.method, row.num_removed) for row in rows if row.is_best}
    finals = (
        trial.key
        for trial in context.trials
        for role in trial.roles
        if role.kind == "final"
        and (role.model, role.task, role.method, trial.spec.num_removed) in best
    )
    return short(next(finals, context.trials[0].key))
