"""Draw a simulated schedule: a row for each gang, a bar for each attempt, what failed in red."""

from __future__ import annotations

import html
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from orchestrator.report_pictures import Picture
from orchestrator.report_text import show_seconds
from orchestrator.simulate import Attempt, Schedule
from orchestrator.simulated_figures import Figures
from orchestrator.simulated_nodes import Host
from orchestrator.simulated_screens import counted, told

# Okabe and Ito's colours; what waits for nothing is light, what others wait for is dark.
COLORS = {
    "round": "#0072B2",
    "dense": "#999999",
    "final": "#56B4E9",
    "control": "#E69F00",
    "transfer": "#009E73",
}
LOST, CHAIN, DOWN = "#D55E00", "#000000", "#EDE3DD"
WIDTH_INCH, MARGIN_INCH, DPI = 11.0, 1.9, 120
LEAST_INCH, MOST_INCH = 1.2, 12.0  # of all rows together
ROW_INCH = 0.34
MIN_EDGE_PIXEL = 5.0  # mean width of a bar from which on bars have an edge
LABEL_INCH = 0.065  # of one letter
NUM_LABELLED = 150  # more bars than that are not read one by one
NUM_SEPARATED = 128  # more hosts than that would be nothing but the lines between them


def write_gantt(
    path: Path,
    name: str,
    schedule: Schedule,
    hosts: Sequence[Host],
    figures: Figures,
    labels: Mapping[str, str],
    kinds: Mapping[str, str],
) -> None:
    """Write the chart as PNG or as one HTML page, by the file's ending.

    Args:
        path: The file; its folders are made.
        name: Of the sweep.
        schedule: What happened.
        hosts: The cluster on which it did.
        figures: What it comes to.
        labels: Readable names of trials, by key.
        kinds: Kinds of trials, by key.
    """
    png = draw_gantt(name, schedule, hosts, figures, labels, kinds)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        path.write_bytes(png)
    else:
        page = _page(name, Picture(path.name, png, f"schedule of {name}"), figures, labels)
        path.write_text(page, encoding="utf-8")


def draw_gantt(
    name: str,
    schedule: Schedule,
    hosts: Sequence[Host],
    figures: Figures,
    labels: Mapping[str, str],
    kinds: Mapping[str, str],
) -> bytes:
    """Return the chart as PNG; the trials of the critical path are framed."""
    num_rows = schedule.num_slots
    high = min(MOST_INCH, max(LEAST_INCH, ROW_INCH * num_rows))
    size = (WIDTH_INCH, high + MARGIN_INCH)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    unit_s, unit = _unit(figures.makespan_s)
    chart = _Chart(axes, schedule, hosts, unit_s)
    chart.draw(labels, kinds, set(figures.chain))
    _label(axes, hosts, unit, figures, name)
    axes.set_xlim(0, figures.makespan_s / unit_s or 1)
    axes.set_ylim(num_rows, 0)
    handles = _legend(schedule, kinds)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


class _Chart:
    """The bars: rows are slots, host after host."""

    def __init__(
        self, axes: Axes, schedule: Schedule, hosts: Sequence[Host], unit_s: float
    ) -> None:
        self.axes, self.schedule, self.unit_s = axes, schedule, unit_s
        self.first_rows = _first_rows(hosts)
        self.hosts = hosts
        num_bars = max(1, len(schedule.attempts) / schedule.num_slots)
        self.edge = 0.5 if WIDTH_INCH * DPI / num_bars > MIN_EDGE_PIXEL else 0.0

    def draw(self, labels: Mapping[str, str], kinds: Mapping[str, str], chain: set[str]) -> None:
        """Draw outages, then attempts, then the frame around the critical path."""
        self._draw_outages()
        bars: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
        framed: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for attempt in self.schedule.attempts:
            color = COLORS[kinds[attempt.key]] if attempt.ending == "done" else LOST
            for row in self._rows(attempt):
                bars[row, color].append(self._span(attempt))
                if attempt.key in chain and attempt.ending == "done":
                    framed[row].append(self._span(attempt))
        for (row, color), spans in bars.items():
            look: dict[str, Any] = {"edgecolor": "white", "linewidth": self.edge}
            self.axes.broken_barh(spans, (row + 0.08, 0.84), facecolors=color, **look)
        for row, spans in framed.items():
            frame: dict[str, Any] = {"facecolors": "none", "edgecolor": CHAIN, "linewidth": 1.4}
            self.axes.broken_barh(spans, (row + 0.08, 0.84), **frame)
        if len(self.schedule.attempts) <= NUM_LABELLED:
            self._write(labels)

    def _rows(self, attempt: Attempt) -> list[int]:
        first = self.first_rows[attempt.place.host]
        return [first + slot for slot in attempt.place.slots]

    def _span(self, attempt: Attempt) -> tuple[float, float]:
        return attempt.start / self.unit_s, (attempt.end - attempt.start) / self.unit_s

    def _draw_outages(self) -> None:
        since: dict[int, float] = {}
        for outage in self.schedule.outages:
            if outage.what != "back":
                since[outage.host] = outage.at
            else:
                self._shade(outage.host, since.pop(outage.host), outage.at)
        for host, at in since.items():
            self._shade(host, at, max(at, self.schedule.wall_s))

    def _shade(self, host: int, start: float, end: float) -> None:
        span = (start / self.unit_s, (end - start) / self.unit_s)
        rows = (self.first_rows[host], self.hosts[host].num_slots)
        self.axes.broken_barh([span], rows, facecolors=DOWN, linewidth=0)

    def _write(self, labels: Mapping[str, str]) -> None:
        """Name each bar that is wide enough for its name."""
        inch_s = (WIDTH_INCH - 1) / (self.schedule.wall_s or 1)
        for attempt in self.schedule.attempts:
            text = labels[attempt.key]
            if (attempt.end - attempt.start) * inch_s < LABEL_INCH * len(text):
                continue
            middle = (attempt.start + attempt.end) / 2 / self.unit_s
            at = (middle, self._rows(attempt)[0] + 0.5)
            self.axes.text(*at, text, fontsize=7, ha="center", va="center", parse_math=False)


def _first_rows(hosts: Sequence[Host]) -> list[int]:
    rows = [0]
    for host in hosts:
        rows.append(rows[-1] + host.num_slots)
    return rows[:-1]


def _label(axes: Axes, hosts: Sequence[Host], unit: str, figures: Figures, name: str) -> None:
    firsts = _first_rows(hosts)
    spans = "gang" if figures.slot == "gang" else "nodes"
    step = max(1, len(hosts) // 32)
    shown = list(range(0, len(hosts), step))
    axes.set_yticks(
        [firsts[index] + hosts[index].num_slots / 2 for index in shown],
        [f"node {index}" if hosts[index].num_nodes == 1 else f"{spans} {index}" for index in shown],
    )
    if len(hosts) <= NUM_SEPARATED:
        for first in firsts[1:]:
            axes.axhline(first, color="#9AA4AE", linewidth=0.6)
    axes.set_xlabel(f"{unit} since the start")
    slots = counted(figures.num_slots, figures.slot)
    title = (
        f"{name}: {show_seconds(figures.makespan_s)} on {slots}, "
        f"{figures.utilisation:.0%} used, {figures.ratio:.2f} x the lower bound"
    )
    axes.set_title(title, fontsize=11, loc="left", parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _legend(schedule: Schedule, kinds: Mapping[str, str]) -> list[Patch]:
    found = {kinds[attempt.key] for attempt in schedule.attempts}
    handles = [Patch(color=color, label=kind) for kind, color in COLORS.items() if kind in found]
    if any(attempt.ending != "done" for attempt in schedule.attempts):
        handles.append(Patch(color=LOST, label="lost attempt"))
    if schedule.outages:
        handles.append(Patch(color=DOWN, label="node down"))
    handles.append(Patch(fill=False, edgecolor=CHAIN, linewidth=1.4, label="critical path"))
    return handles


def _unit(seconds: float) -> tuple[float, str]:
    """Return the unit of the axis: the one in which people would tell the makespan."""
    if seconds < 120:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 7200 else (3600.0, "hours")


def _page(name: str, picture: Picture, figures: Figures, labels: Mapping[str, str]) -> str:
    wide, high = picture.size
    text = html.escape("\n".join(told(figures, labels)))
    title = html.escape(f"Simulated run of {name}")
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>\n'
        "<style>body{font:15px system-ui,sans-serif;margin:2em}img{max-width:100%;height:auto}"
        "</style></head>\n"
        f'<body>\n<h1>{title}</h1>\n<img src="{picture.uri}" width="{wide}" height="{high}" '
        f'alt="{html.escape(picture.text)}">\n<pre>{text}</pre>\n</body>\n</html>\n'
    )
