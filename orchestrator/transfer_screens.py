"""Transfer tables for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.report_text import MISSING, show_percent
from orchestrator.transfer import TransferCell
from orchestrator.transfer_judging import SourceOverlaps, TransferTable

LEGEND = (
    "Rows: where the mask is from; columns: what it is fine-tuned on. A cell is the mean "
    "difference to dense in points ±deviation over the seeds; * dark: at least as good as the "
    "task's own ticket; † stopped after one seed. The last column counts dark cells."
)


def show_transfer(console: Console, table: TransferTable) -> None:
    """Print one transfer table."""
    level = show_percent(table.sparsity)
    title = f"{table.model} · transfer at {level}, on {table.split}"
    shown = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("source")
    for target in table.matrix.targets:
        shown.add_column(escape(target), justify="right")
    shown.add_column("dark", justify="right")
    for source in table.matrix.sources:
        cells = [show_cell(table.matrix.cells[source, t]) for t in table.matrix.targets]
        count = table.matrix.counts[source]
        dark = f"{count.num_dark}/{count.num_targets}" if count.num_targets else ""
        shown.add_row(escape(source), *cells, dark)
    console.print(shown)
    console.print(f"[dim]{LEGEND}[/]\n", highlight=False)


def show_source_overlaps(console: Console, overlaps: SourceOverlaps) -> None:
    """Print how far the sources' masks overlap."""
    title = f"{overlaps.model} · weights kept by both masks / by either"
    shown = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("mask")
    for name in overlaps.names:
        shown.add_column(escape(name), justify="right")
    for name, line in zip(overlaps.names, overlaps.values, strict=True):
        shown.add_row(escape(name), *(MISSING if v is None else f"{v:.3f}" for v in line))
    console.print(shown)
    console.print(f"[dim]Two random masks would overlap by {overlaps.by_chance:.3f}.[/]\n")


def show_cell(cell: TransferCell) -> str:
    """Return a cell's text: its difference to dense, marked where dark or stopped."""
    if cell.state == "not_asked":
        return ""
    if cell.difference_dense is None:
        return MISSING if cell.state == "not_run" else cell.state
    text = f"{100 * float(cell.difference_dense):+.2f}"
    if cell.difference_std is not None:
        text += f" ±{100 * float(cell.difference_std):.2f}"
    if cell.state == "lost_futility":
        return f"[dim]{text} †[/]"
    return f"[bold]{text} *[/]" if cell.dark else text
