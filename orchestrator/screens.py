"""Tables that commands print for people; programs use --json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from orchestrator.failing import NO_FAILURES, FailureHistory, describe_failure
from orchestrator.journal_reader import TrialRow
from orchestrator.plan import Plan
from orchestrator.report_text import (
    OUTCOME_WORDS,
    show_count,
    show_percent,
    show_score,
    show_seconds,
)
from search_spaces.canonical import short
from search_spaces.contracts import MaskInfo, TrialState

if TYPE_CHECKING:  # it imports MLflow
    from orchestrator.queries import LineageRow, Ticket

MAX_FAILURES_SHOWN = 10


def show_plan(console: Console, sweep: str, plan: Plan) -> None:
    """Print what a run would do to each trial, and the sums."""
    table = make_table(f"plan of sweep {sweep}", "key", "trial*", "action", "<time", "reason*")
    for row in plan.rows:
        time = show_seconds(row.seconds) if row.seconds else ""
        table.add_row(short(row.key), escape(row.label), row.action, time, escape(row.reason))
    console.print(table)
    console.print(plan_summary(plan), highlight=False, soft_wrap=True)


def plan_summary(plan: Plan) -> str:
    """Return a plan in one line."""
    num = plan.num_run + plan.num_wait
    skipped = f", {plan.num_skip} skipped" if plan.num_skip else ""
    hours = plan.hours_by_ranks
    parts = [f"{spent:.2f} on gangs of {ranks}" for ranks, spent in hours.items()]
    sizes = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    return (
        f"{num} to run ({plan.num_run} at once, {plan.num_wait} after a parent), "
        f"{plan.num_reuse} reused{skipped}; {plan.num_train_steps:,} steps, "
        f"about {plan.device_hours:.2f} {plan.device}-hours{sizes}"
    )


def plan_data(made: Plan) -> dict[str, Any]:
    """Return a plan as plain data, for programs."""
    return {
        "num_run": made.num_run,
        "num_reuse": made.num_reuse,
        "num_wait": made.num_wait,
        "num_skip": made.num_skip,
        "num_train_steps": made.num_train_steps,
        "device": made.device,
        "device_hours": made.device_hours,
        "device_hours_by_ranks": made.hours_by_ranks,
        "critical_path_s": made.critical_path_s,
        "rows": [vars(row) for row in made.rows],
    }


def show_status(
    console: Console,
    sweep: str,
    rows: Sequence[TrialRow],
    counts: Mapping[TrialState, int],
    has_ended: bool = False,
    failures: Mapping[str, FailureHistory] = NO_FAILURES,
) -> None:
    """Print every trial's state, then why those that failed did and what to do.

    Args:
        console: Where.
        sweep: Its name.
        rows: The trials.
        counts: Trials in each state.
        has_ended: No run is there to end the running ones.
        failures: By key of the trials that have some.
    """
    message = ("message*",) if any(row.message for row in rows) else ()
    table = make_table(f"sweep {sweep}", "key", "trial*", "state", "<tries", "<time", *message)
    for row in rows:
        time = show_seconds(row.seconds) if row.seconds else ""
        tries = str(row.attempts)
        if row.key in failures:
            tries += f" ({failures[row.key].text})"
        cells = (short(row.key), escape(row.label), row.state.value, tries, time)
        table.add_row(*cells, *([escape(row.message)] if message else []))
    console.print(table)
    console.print("  ".join(f"{state.value} {num}" for state, num in counts.items() if num))
    _show_failures(console, [row for row in rows if row.state is TrialState.FAILED], failures)
    if has_ended and counts.get(TrialState.RUNNING):
        console.print(
            "The run that started the RUNNING trials was interrupted. Type the same 'tickets run' "
            "again: it goes on, and they start anew.",
            highlight=False,
        )


def _show_failures(
    console: Console, failed: Sequence[TrialRow], failures: Mapping[str, FailureHistory]
) -> None:
    for row in failed[:MAX_FAILURES_SHOWN]:
        if row.key in failures:
            text = "\n".join(describe_failure(row, failures[row.key]))
            console.print(escape(f"\n{text}"), highlight=False, soft_wrap=True)
    num_more = len(failed) - MAX_FAILURES_SHOWN
    if num_more > 0:
        console.print(f"\n{num_more} more failed; all of them: tickets status --json")


def show_tickets(console: Console, tickets: Sequence[Ticket]) -> None:
    """Print the best tickets, and what 'best' means here."""
    if not tickets:
        console.print("No ticket matches.")
        return
    flagged = ("flags*",) if any(one.flags for one in tickets) else ()
    numbers = ("<sparsity", "<n", "<select", "<report", "<matches", "<key", *flagged)
    table = make_table("sparsest matching tickets", "sweep: model · task · method*", *numbers)
    for one in tickets:
        table.add_row(
            escape(f"{one.sweep}: {one.model} · {one.task} · {one.method}"),
            show_percent(one.sparsity),
            str(one.num_seeds),
            show_score(one.select_mean),
            show_score(one.report_mean),
            OUTCOME_WORDS[one.report_outcome],
            short(one.trial_keys[0]),
            *([", ".join(one.flags)] if flagged else []),
        )
    console.print(table)
    rules = ", ".join(sorted({f"{one.rule}, replicate: {one.replicate}" for one in tickets}))
    console.print(
        f"Chosen on select ({rules}); 'matches' is the same rule on report. "
        "'key' is the first seed's trial: tickets lineage KEY shows where it came from.",
        highlight=False,
    )


def show_lineage(console: Console, rows: Sequence[LineageRow]) -> None:
    """Print a trial and its mask's ancestors."""
    table = make_table("", "key", "<sparsity", "<removed", "mask")
    for row in rows:
        mask = short(row.mask_sha256) if row.mask_sha256 else "none: dense"
        sparsity = show_percent(row.sparsity)
        table.add_row(short(row.trial_key), sparsity, show_count(row.num_removed), mask)
    console.print(table)


def show_mask(console: Console, name: str, info: MaskInfo) -> None:
    """Print the sparsity of a mask and of each of its matrices."""
    table = make_table(f"{name}", "matrix*", "<kept", "<sparsity", "")
    for matrix, kept in info.kept_per_matrix.items():
        flag = "collapsed" if matrix in info.collapsed else ""
        sparsity = show_percent(info.sparsity_per_matrix[matrix])
        table.add_row(escape(matrix), f"{kept:,}", sparsity, flag)
    console.print(table)
    share = show_percent(info.num_removed / info.num_weights)
    console.print(
        f"{info.num_removed:,} of {info.num_weights:,} weights removed ({share}); "
        f"mask {short(info.sha256)}",
        highlight=False,
        soft_wrap=True,
    )


def show_overlaps(console: Console, rows: Sequence[tuple[str, str, float]]) -> None:
    """Print the overlap of each pair of masks."""
    table = make_table("weights kept by both / by either", "mask*", "mask*", "<overlap")
    for first, second, overlap in rows:
        table.add_row(escape(first), escape(second), f"{overlap:.4f}")
    console.print(table)


def make_table(title: str, *columns: str) -> Table:
    """Return an empty table.

    Args:
        title: Above it; "" for none.
        columns: Names; ``<`` before one aligns right, ``*`` after one lets it wrap.
    """
    table = Table(
        title=title or None,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in columns:
        name, wraps = column.strip("<*"), column.endswith("*")
        justify: JustifyMethod = "right" if column.startswith("<") else "left"
        table.add_column(name, justify=justify, no_wrap=not wraps, overflow="fold")
    return table
