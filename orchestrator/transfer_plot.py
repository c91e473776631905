"""Draw the transfer table and the overlap of masks as matrices, for a page and for print."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from orchestrator.report_text import MISSING, show_points
from orchestrator.transfer import DarkCount, TransferCell, TransferMatrix

# One hue in two steps: they differ in lightness alone, so also in grey and for every eye.
DARK, LIGHT, OPEN = "#0B3A5E", "#DCE9F3", "#FFFFFF"
INK, PAPER, GRID, FRAME = "#1B1F24", "#FFFFFF", "#9AA4AE", "#E69F00"
HATCH = "////"
CELL_INCH, ROW_INCH, LABEL_INCH, DPI = 0.84, 0.56, 0.11, 160
MIN_WIDTH_INCH = 5.0  # the legend's
WIDE_INCH = 8.5  # from there on the legend has two columns
OVERLAP_COLORS = "Blues"
PAPER_INK_ABOVE = 0.7  # overlap from which on white letters stand out more than dark ones


def draw_transfer(matrix: TransferMatrix) -> bytes:
    """Return a PNG of the table: source rows, target columns, dark cells counted at the right.

    A cell holds its mean difference to dense in points (hundredths of the metric) and that
    difference's deviation over the seeds.
    """
    figure, axes = _canvas(matrix.sources, (*matrix.targets, "dark"))
    for row, source in enumerate(matrix.sources):
        for column, target in enumerate(matrix.targets):
            _draw_cell(axes, column, row, matrix.cells[source, target])
        _draw_count(axes, len(matrix.targets), row, matrix.counts[source])
    axes.set_xlabel("target: fine-tuned on", fontsize=10)
    axes.set_ylabel("source: mask from", fontsize=10)
    look: dict[str, Any] = {"fontsize": 10, "title_fontsize": 10, "frameon": False}
    figure.legend(
        handles=_legend(matrix),
        title="cell: mean difference to dense in points ± deviation",
        loc="outside lower center",
        ncols=2 if figure.get_figwidth() > WIDE_INCH else 1,
        **look,
    )
    return _png(figure)


def draw_overlap(names: Sequence[str], values: Sequence[Sequence[float | None]]) -> bytes:
    """Return a PNG of how far masks overlap, pair by pair.

    Args:
        names: Of the masks.
        values: By row and column: weights that both keep / that either keeps; None = unknown.
    """
    figure, axes = _canvas(names, names)
    colors = colormaps[OVERLAP_COLORS]
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            fill = OPEN if value is None else colors(float(value))  # an int would be an index
            ink = PAPER if value is not None and value > PAPER_INK_ABOVE else INK
            _fill(axes, column, row, fill)
            _write(axes, column, row, MISSING if value is None else f"{value:.2f}", ink)
    axes.set_xlabel("weights kept by both masks / by either", fontsize=10)
    return _png(figure)


def _canvas(rows: Sequence[str], columns: Sequence[str]) -> tuple[Figure, Axes]:
    """Return an empty matrix with its names, as large as they and the cells need."""
    names = LABEL_INCH * max(map(len, rows), default=0)
    over = LABEL_INCH * max(map(len, columns), default=0)
    width = max(MIN_WIDTH_INCH, names + CELL_INCH * len(columns) + 0.6)
    size = (width, 0.7 * over + ROW_INCH * len(rows) + 1.4)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([place + 0.5 for place in range(len(columns))])
    axes.set_yticks([place + 0.5 for place in range(len(rows))])
    # Names are the user's: a dollar sign in one must not begin a formula.
    turned: dict[str, Any] = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"}
    axes.set_xticklabels(columns, fontsize=11, parse_math=False, **turned)
    axes.set_yticklabels(rows, fontsize=11, parse_math=False)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure, axes


def _draw_cell(axes: Axes, column: int, row: int, cell: TransferCell) -> None:
    if cell.state == "not_asked":
        return
    fill, ink = {True: (DARK, PAPER), False: (LIGHT, INK), None: (OPEN, INK)}[cell.dark]
    lost = cell.state == "lost_futility"
    _fill(axes, column, row, fill, HATCH if lost else "")
    _write(axes, column, row, cell_text(cell), ink, behind=OPEN if lost else "")
    if cell.source == cell.target:
        place = (column + 0.05, row + 0.05)
        axes.add_patch(Rectangle(place, 0.9, 0.9, fill=False, edgecolor=FRAME, linewidth=2.4))


def cell_text(cell: TransferCell) -> str:
    """Return what stands in a cell: the difference to dense in points over its deviation."""
    if cell.state == "not_run":
        return MISSING
    if cell.state == "undecided":
        return "open"
    first = show_points(cell.difference_dense, sign="+")
    if cell.state == "lost_futility":
        return f"{first}\nn={cell.n}"
    return first if cell.difference_std is None else f"{first}\n±{show_points(cell.difference_std)}"


def _draw_count(axes: Axes, column: int, row: int, count: DarkCount) -> None:
    if not count.num_targets:  # the row is no source, but a target's own mask
        return
    open_cells = count.num_targets - count.num_known
    text = f"{count.num_dark}" if not open_cells else f"≥ {count.num_dark}"
    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=12, weight="bold")


def _legend(matrix: TransferMatrix) -> list[Patch]:
    """Return what the colours and marks mean, as far as the table has them."""
    cells = matrix.cells.values()
    found = [
        Patch(facecolor=DARK, edgecolor=GRID, label="at least as good as the task's own mask"),
        Patch(facecolor=LIGHT, edgecolor=GRID, label="worse than the task's own mask"),
    ]
    if any(cell.source == cell.target for cell in cells):
        found.append(Patch(fill=False, edgecolor=FRAME, lw=2, label="own mask: not counted"))
    if any(cell.state == "lost_futility" for cell in cells):
        label = "stopped after one seed: lost"
        found.append(Patch(facecolor=OPEN, edgecolor=GRID, hatch=HATCH, label=label))
    if any(cell.state in ("undecided", "not_run") for cell in cells):
        label = f"open: a seed has no score; {MISSING}: not run"
        found.append(Patch(facecolor=OPEN, edgecolor=GRID, label=label))
    return found


def _fill(axes: Axes, column: int, row: int, color: object, hatch: str = "") -> None:
    look: dict[str, Any] = {"facecolor": color, "edgecolor": GRID, "linewidth": 0.8, "hatch": hatch}
    axes.add_patch(Rectangle((column, row), 1, 1, **look))


def _write(axes: Axes, column: int, row: int, text: str, ink: str, behind: str = "") -> None:
    box = {"facecolor": behind, "edgecolor": "none", "pad": 1.0} if behind else None
    look: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 1.1, "bbox": box}
    axes.text(column + 0.5, row + 0.5, text, fontsize=11, color=ink, **look)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
