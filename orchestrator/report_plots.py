"""Draw scores against sparsity with matplotlib's objects: no screen, no global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation, Transform

from orchestrator.report_curves import Curve, Series
from orchestrator.report_text import show_percent

# Okabe and Ito's colours; markers and dashes tell the series apart without them.
TICKET_STYLES = (("#0072B2", "o"), ("#009E73", "s"), ("#CC79A7", "D"), ("#56B4E9", "^"))
CONTROL_STYLES = (
    ("#D55E00", "X"),
    ("#E69F00", "P"),
    ("#882255", "v"),
    ("#8C6D1F", "d"),
    ("#999999", "^"),
    ("#661100", "*"),
)
DENSE_COLOR = "#444444"
WIDTH_INCH, HEIGHT_INCH, DPI = 6.4, 4.8, 160
AXIS_POINT = 400.0  # about the width of the axis
SLOT_POINT = 6.0  # between a mean, its seeds and the next series: whiskers do not overlap
RING_POINT = 8  # radius of the ring around the best ticket, with some air
MIN_LABEL_GAP = 0.055  # of the axis: labels of levels that are closer are left out


@dataclass(frozen=True)
class _Style:
    color: str
    marker: str
    line: str
    shift_point: float
    slot_point: float


def draw_curves(curves: Sequence[Curve]) -> list[bytes]:
    """Return a PNG for each curve, all with the same axis of scores, so that they compare."""
    heights = [height for curve in curves for height in curve.heights]
    margin = 0.05 * (max(heights) - min(heights)) or 0.01
    return [_draw(curve, min(heights) - margin, max(heights) + margin) for curve in curves]


def _draw(curve: Curve, lowest: float, highest: float) -> bytes:
    figure = Figure(figsize=(WIDTH_INCH, HEIGHT_INCH), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_ylim(lowest, highest)
    _draw_dense(axes, curve)
    styled = [
        *zip(curve.tickets, TICKET_STYLES, strict=False),
        *zip(curve.controls, CONTROL_STYLES, strict=False),
    ]
    slot = _slot(curve.levels, len(styled))
    for index, (series, (color, marker)) in enumerate(styled):
        shift = (2 * index - len(styled) + 0.5) * slot
        line = "-" if index < len(curve.tickets) else "--"
        _draw_series(axes, series, _Style(color, marker, line, shift, slot))
    _label(axes, curve, reach_point=(len(styled) + 0.5) * slot + RING_POINT)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_dense(axes: Axes, curve: Curve) -> None:
    mean, std = curve.dense.mean, curve.dense.std
    if mean is None:
        return
    axes.axhline(mean, color=DENSE_COLOR, linewidth=1.2, label="dense mean")
    if std is not None:
        band: dict[str, Any] = {"color": DENSE_COLOR, "alpha": 0.15, "linewidth": 0}
        axes.axhspan(mean - std, mean + std, label="dense ± 1 std", **band)
    bound = mean - curve.delta
    name = f"noninferiority margin: dense − {curve.delta:g}"
    axes.axhline(bound, color=DENSE_COLOR, linestyle=":", linewidth=1.4, label=name)


def _draw_series(axes: Axes, series: Series, style: _Style) -> None:
    """Draw means with whiskers where every seed has a score, and the seeds as dots beside them."""
    color, moved = style.color, _moved(axes, style.shift_point)
    beside = _moved(axes, style.shift_point + style.slot_point)
    name = series.name if style.line == "-" else f"{series.name} (control)"
    levels = [point.sparsity for point in series.points]
    means = [_number(point.mean) for point in series.points]
    look: dict[str, Any] = {"color": color, "marker": style.marker, "markersize": 4.5}
    axes.plot(levels, means, style.line, label=name, transform=moved, **look)
    for point in series.points:
        places = [point.sparsity] * len(point.present)
        axes.plot(
            places, point.present, ".", color=color, markersize=3.5, alpha=0.7, transform=beside
        )
        if point.mean is not None and point.std is not None:
            ends = [point.mean - point.std, point.mean + point.std]
            axes.plot([point.sparsity] * 2, ends, "-_", color=color, linewidth=1.2, transform=moved)
        if point.sparsity == series.best:
            label = f"best {series.name} ticket: {show_percent(point.sparsity)}"
            ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": "black"}
            place = [point.sparsity], [_number(point.mean)]
            axes.plot(*place, "o", markersize=13, label=label, transform=moved, **ring)


def _moved(axes: Axes, points: float) -> Transform:
    """Return the data's place, some typographic points to the right."""
    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def _slot(levels: tuple[float, ...], num_series: int) -> float:
    """Return how far series stand apart, in points: less where levels are close."""
    if len(levels) < 2:
        return SLOT_POINT
    gap = min(after - before for before, after in pairwise(levels)) / (levels[-1] - levels[0])
    return min(SLOT_POINT, 0.8 * gap * AXIS_POINT / (2 * num_series))


def _label(axes: Axes, curve: Curve, reach_point: float) -> None:
    """Name the axes, and leave room at the sides for what is drawn beside a level."""
    split = "select = report" if curve.same_split else curve.split
    # Names are the user's: a dollar sign in one must not begin a formula.
    title = f"{curve.task} · {curve.model} · {split}"
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel("sparsity: prunable weights removed")
    axes.set_ylabel(curve.metric, parse_math=False)
    levels = curve.levels
    room = margin(levels[-1] - levels[0], reach_point)
    axes.set_xlim(levels[0] - room, levels[-1] + room)
    axes.set_xticks(levels, _tick_labels(levels, MIN_LABEL_GAP * (levels[-1] - levels[0])))
    axes.tick_params(axis="x", labelrotation=45 if len(levels) > 8 else 0)
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def margin(span: float, reach_point: float) -> float:
    """Return the room at each side of the levels, in their unit.

    Args:
        span: From the first level to the last.
        reach_point: How far something is drawn beside a level, in points.
    """
    return span * reach_point / (AXIS_POINT - 2 * reach_point) or 0.05


def _tick_labels(levels: tuple[float, ...], min_gap: float) -> list[str]:
    """Return each level as percent, empty where the next label to the right is too near."""
    labels: list[str] = []
    last = float("inf")
    for level in reversed(levels):
        near = last - level < min_gap
        labels.append("" if near else show_percent(level))
        last = last if near else level
    return labels[::-1]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
