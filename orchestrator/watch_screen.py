"""One frame of a watched sweep, drawn for a terminal: every state has a colour and a sign."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.driver_life import describe_away
from orchestrator.mirror_lag import describe_lag
from orchestrator.report_text import show_seconds
from orchestrator.screens import make_table
from orchestrator.watch import Frame, Grid
from search_spaces.canonical import short
from search_spaces.contracts import TrialState

SIGNS = {
    TrialState.SUCCEEDED: ("green", "■"),
    TrialState.RUNNING: ("bold cyan", "▶"),
    TrialState.PENDING: ("bright_black", "·"),
    TrialState.FAILED: ("bold red", "✗"),
    TrialState.BLOCKED: ("yellow", "▲"),
    TrialState.CANCELLED: ("magenta", "−"),
    TrialState.SKIPPED: ("blue", "○"),
}
NUM_SIGNS = 6  # trials of a cell that are drawn one by one
NUM_RUNNING = 12
NUM_FAILED = 6
BAR_WIDTH = 60


def draw(frame: Frame) -> RenderableType:
    """Return a frame as something that rich prints."""
    if not frame.kinds:
        return Group(_head(frame), Text("Its trials are not in the journal yet."))
    parts: list[RenderableType] = [_head(frame), _bar(frame), _kinds(frame)]
    if frame.running:
        parts.append(_running(frame))
    if frame.failed:
        parts.append(_failed(frame))
    parts += [Text(text, style="italic") for text in frame.commands]
    parts.append(_grid(frame.grid))  # last: a low terminal cuts what is below
    return Group(*parts)


def _head(frame: Frame) -> Text:
    colour = {"alive": "green", "silent": "yellow", "ended": "white", "died": "red"}
    text = Text.assemble("sweep ", (frame.name, "bold"), "  ")
    text.append(frame.life.text, style=colour[frame.life.state])
    if frame.where and frame.life.may_run:
        text.append(f"\n{frame.where}", style="dim")
    if frame.is_paused:
        text.append("\nPAUSED: 'tickets resume' lets it go on", style="bold yellow")
    if frame.num_waiting:
        text.append(f"\n{frame.num_waiting} command(s) wait for a run", style="yellow")
    if frame.store_away_s is not None:
        text.append(f"\n{describe_away(frame.store_away_s)}", style="bold yellow")
    if frame.mirror and frame.mirror.num_behind:
        text.append(f"\n{describe_lag(frame.mirror, frame.at)}", style="yellow")
    return text


def _bar(frame: Frame) -> Text:
    """Return the whole sweep as one bar, and below it how fast it is."""
    total = sum(frame.counts.values())
    text = Text()
    for state, (style, sign) in SIGNS.items():
        if num := frame.counts[state]:  # a single failure is seen too
            text.append(sign * max(1, round(BAR_WIDTH * num / total)), style=style)
    done = frame.counts[TrialState.SUCCEEDED] + frame.counts[TrialState.SKIPPED]
    text.append(f"  {done}/{total} done", style="bold")
    if speeds := "   ".join(_speeds(frame)):
        text.append(f"\n{speeds}")
    return text


def _speeds(frame: Frame) -> Iterable[str]:
    if frame.trials_per_h is not None:
        yield f"{frame.trials_per_h:.3g} trials/h"
    if frame.tokens_per_s is not None:
        yield f"{frame.tokens_per_s:,.0f} tokens/s a slot"
    if frame.eta_s is not None:
        basis = "" if frame.eta_is_measured else " (nothing measured yet)"
        yield f"ends in about {show_seconds(frame.eta_s)}{basis}"


def _kinds(frame: Frame) -> Table:
    """Return the number of trials by kind and state; also the key to colours and signs."""
    states = [state for state in SIGNS if frame.counts[state]]
    table = make_table("", "kind", *(f"<{state.value}" for state in states))
    for column, state in zip(table.columns[1:], states, strict=True):
        style, sign = SIGNS[state]
        column.header = Text(f"{sign} {state.value.lower()}", style=style)
    for kind, counts in frame.kinds.items():
        table.add_row(kind, *(str(counts.get(state, "")) for state in states))
    return table


def _grid(grid: Grid) -> Table:
    table = make_table("trials by sparsity, one sign for each seed", "", *grid.columns)
    for name, cells in grid.rows:
        table.add_row(escape(name), *(_cell(cells.get(column, ())) for column in grid.columns))
    return table


def _cell(states: Sequence[TrialState]) -> Text:
    if len(states) <= NUM_SIGNS:
        return Text.assemble(*((SIGNS[state][1], SIGNS[state][0]) for state in states))
    num_done = sum(state is TrialState.SUCCEEDED for state in states)
    worst = max(states, key=_WORST.index)
    return Text(f"{num_done}/{len(states)}{SIGNS[worst][1]}", style=SIGNS[worst][0])


_WORST = (
    TrialState.SUCCEEDED,
    TrialState.SKIPPED,
    TrialState.PENDING,
    TrialState.RUNNING,
    TrialState.CANCELLED,
    TrialState.BLOCKED,
    TrialState.FAILED,
)


def _running(frame: Frame) -> Table:
    table = make_table("running", "key", "trial*", "<try", "phase", "<step", "<loss", "<time")
    for one in frame.running[:NUM_RUNNING]:
        table.add_row(
            short(one.key),
            escape(one.label),
            str(one.attempt),
            one.phase,
            f"{one.step}/{one.num_steps}" if one.num_steps else "",
            f"{one.loss:.3f}" if one.loss is not None else "",
            show_seconds(one.seconds),
        )
    return _cut(table, len(frame.running) - NUM_RUNNING)


def _failed(frame: Frame) -> Table:
    table = make_table("failed; 'tickets logs SWEEP KEY' tells all", "key", "trial*", "why*")
    for one in frame.failed[:NUM_FAILED]:
        blocks = f" (blocks {one.num_blocked})" if one.num_blocked else ""
        why = Text(f"{one.failure}: {one.message}{blocks}", style="red")
        table.add_row(short(one.key), escape(one.label), why)
    return _cut(table, len(frame.failed) - NUM_FAILED)


def _cut(table: Table, num_more: int) -> Table:
    """Say how many rows were left out."""
    if num_more > 0:
        table.caption, table.caption_justify = f"and {num_more} more", "left"
    return table
