"""Results as tables: one on the terminal, all of them on a page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import BUSY_ABOVE_CPUS
from benchmarks.measure import OURS

_HEAD = """# Benchmarks

Written by `make bench`; do not edit it, remarks stand in `benchmarks/notes/`. [How to read it, and
what is fair about it](../benchmarks/README.md). Every cell is a median over rounds with its
quartiles; a ratio above 1 means that ours takes less. Each peer ran in turn with ours, on the same
work.
"""


def page(results: Iterable[Mapping[str, Any]], notes: Path) -> str:
    """Return the page of all results, as Markdown.

    Args:
        results: In the page's order.
        notes: A folder; what stands in its NAME.md, for example why a goal was missed, is put
            under that benchmark's section.
    """
    parts = [_HEAD]
    for result in results:
        parts.append(section(result))
        note = notes / f"{result['benchmark']}.md"
        if note.is_file():
            parts.append(note.read_text())
    return "\n".join(parts)


def section(result: Mapping[str, Any]) -> str:
    """Return one result as Markdown.

    Args:
        result: What a result file holds.
    """
    name = result["benchmark"]
    lines = [f"## {name}", "", f"{result['question']} Code: `benchmarks/{name}.py`.", ""]
    if result["others_cpus"] > BUSY_ABOVE_CPUS:
        busy = f"{result['others_cpus']:.2f} CPUs were busy with other processes"
        lines += [f"**Not a quiet machine: {busy}. Do not quote these numbers.**", ""]
    for case in result["cases"]:
        lines += [f"### {case['name']}", "", *_table(case), ""]
        lines += [f"- {fact}" for fact in [*case["facts"], *_goals(case)]] + [""]
    lines += ["Compared:", ""]
    lines += [f"- **{key}**: {text}." for key, text in result["variants"].items()]
    lines += ["", "Measured with:", ""]
    others = {"others": f"{result['others_cpus']:.2f} CPUs used by other processes meanwhile"}
    conditions = {**result["settings"], **result["machine"], **others}
    lines += [f"- {key}: {text}" for key, text in conditions.items()]
    return "\n".join([*lines, ""])


def _table(case: Mapping[str, Any]) -> list[str]:
    variants = next(iter(case["quantities"].values()))["variants"]
    ratios = [f"{name} / {OURS}" for name in variants if name != OURS]
    titles = ["quantity", *variants, *ratios]
    rows = [_row(titles), _row(["---", *["---:"] * (len(titles) - 1)])]
    for quantity, measured in case["quantities"].items():
        values = [_cell(measured["variants"][name]) for name in variants]
        shares = [_cell(measured["ratios"][name]) for name in variants if name != OURS]
        rows.append(_row([f"`{quantity}`", *values, *shares]))
    return rows


def _goals(case: Mapping[str, Any]) -> list[str]:
    return [verdict(goal) for goal in case.get("goals", ())]


def verdict(goal: Mapping[str, Any]) -> str:
    """Return a goal, what was measured, and whether it was met, as a sentence.

    Args:
        goal: A goal of ``summary``: its fields and ``measured``.
    """
    measured, target, peer = goal["measured"], goal["target"], goal["peer"]
    quantity, floor = f"`{goal['quantity']}`", goal["floor"]
    if peer is None:
        wanted, found = f"{goal['variant']} <= {target:.3g} in {quantity}", _number(measured)
        end = "met" if measured <= target else "missed"
    else:
        wanted = f"{peer} / {goal['variant']} >= {target:.3g}x in {quantity}"
        found = f"{_number(measured)}x"
        end = "met" if measured >= target else "missed"
        if floor is not None and end == "missed":
            end += f", {'above' if measured >= floor else 'below'} the floor of {floor:.3g}x"
    meaning = f" ({goal['meaning']})" if goal["meaning"] else ""
    return f"Goal {wanted}{meaning}: **{end}** ({found})."


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(spread: Mapping[str, float]) -> str:
    median, q1, q3 = (_number(spread[name]) for name in ("median", "q1", "q3"))
    return median if q1 == median == q3 else f"{median} ({q1}–{q3})"


def _number(value: float) -> str:
    """Return three significant digits, and all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def read_results(folder: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the results that are there, in this order."""
    paths = [folder / f"{name}.json" for name in names]
    return [json.loads(path.read_text()) for path in paths if path.is_file()]
