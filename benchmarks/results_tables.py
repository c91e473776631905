"""The tables of docs/results.md, written from a record.

    python -m benchmarks.results_tables docs/results/minilm-controls.json

Scores are shown as fractions, mean ± deviation over the seeds; differences of a transfer in points.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.verdicts import beats

Record = Mapping[str, Any]


def tables(record: Record) -> Iterator[str]:
    """Yield the lines of all tables of a record."""
    for task in dict.fromkeys(row["task"] for row in record["verdicts"]):
        yield f"### {task}"
        yield from levels(record, task)
    if {"imp", "one-shot-theta0"} <= {row["method"] for row in record["verdicts"]}:
        yield from between(record, "imp", "one-shot-theta0")
    for table in record.get("transfers", {}).get("tables", []):
        yield f"### transfer, {table['split']}"
        yield from transfers(record, table["split"])


def levels(record: Record, task: str, rule: str = "noninferior") -> Iterator[str]:
    """Yield a line for the dense network and for each method and level of a task, judged by a rule.

    Columns of controls are shown where the task has any: the control's mean, and whether the
    one-sided 95% lower bound of ticket - control is above 0.
    """
    rows = [row for row in record["verdicts"] if row["task"] == task]
    names = list(dict.fromkeys(one["name"] for row in rows for one in row["controls"]))
    header = ["", "select", "report", "vs dense, select", rule, *names]
    yield "| " + " | ".join(header) + " |"
    yield "|---" * len(header) + "|"
    first = rows[0]
    dense = [
        "dense",
        _spread(first["dense_mean"], first["dense_std"]),
        _score(first["report_dense_mean"]),
    ]
    yield "| " + " | ".join([*dense, *[""] * (len(header) - 3)]) + " |"
    for row in rows:
        yield "| " + " | ".join(_level(row, names, rule)) + " |"


def between(record: Record, first: str, second: str) -> Iterator[str]:
    """Yield a line for each task and level: how far one method is above another, paired on seeds.

    Mean and one-sided 95% lower bound on each split.
    """
    yield f"| task | sparsity | {first} − {second}, select | report |"
    yield "|---|---|---|---|"
    levels = {
        (row["task"], row["num_removed"]): row["sparsity"]
        for row in record["verdicts"]
        if row["method"] == first
    }
    for (task, num_removed), sparsity in levels.items():
        told = []
        for split in ("select", "report"):
            ours, theirs = (
                _finals(record, task, method, num_removed, split) for method in (first, second)
            )
            compared = beats(ours, theirs)
            told.append(f"{compared.difference_mean:+.4f}, {compared.lower_bound:+.4f}")
        yield f"| {task} | {sparsity:.0%} | {told[0]} | {told[1]} |"


def between_protocols(first: Record, second: Record, task: str) -> Iterator[str]:
    """Yield a line for each level of a record: how far its IMP is above that of another record at
    the nearest level, paired on seeds. Mean and one-sided 95% lower bound on each split.
    """
    names = [record["sweep"] for record in (first, second)]
    yield f"| {names[0]} | {names[1]} | difference, select | report |"
    yield "|---|---|---|---|"
    rows, others = (
        [row for row in record["verdicts"] if (row["task"], row["method"]) == (task, "imp")]
        for record in (first, second)
    )
    for ours in rows:
        theirs = min(others, key=lambda row: abs(row["sparsity"] - ours["sparsity"]))
        told = []
        for split in ("select", "report"):
            compared = beats(
                _finals(first, task, "imp", ours["num_removed"], split),
                _finals(second, task, "imp", theirs["num_removed"], split),
            )
            told.append(f"{compared.difference_mean:+.4f}, {compared.lower_bound:+.4f}")
        shown = [f"{row['sparsity']:.0%}" for row in (ours, theirs)]
        yield "| " + " | ".join([*shown, *told]) + " |"


def _finals(
    record: Record, task: str, method: str, num_removed: int, split: str
) -> dict[int, float]:
    """Return the scores of a method's tickets by seed."""
    wanted = {"kind": "final", "task": task, "method": method, "num_removed": num_removed}
    return {
        row["seed"]: row["scores"][split][row["metric"]]
        for row in record["trials"]
        if all(row[name] == value for name, value in wanted.items())
    }


def transfers(record: Record, split: str) -> Iterator[str]:
    """Yield the matrix of a split: each source's mask on each target, in points against dense.

    An asterisk marks a dark cell, at least as good as the target's own ticket; `lost` one that was
    stopped after its first seed. The diagonal, in italics, is the target's own ticket.
    """
    (table,) = (one for one in record["transfers"]["tables"] if one["split"] == split)
    cells = {(cell["source"], cell["target"]): cell for cell in table["cells"]}
    sources, targets = (list(dict.fromkeys(pair[at] for pair in cells)) for at in (0, 1))
    yield "| mask from | " + " | ".join(targets) + " | dark |"
    yield "|---" * (len(targets) + 2) + "|"
    for source in sources:
        count = table["dark"][source]
        shown = [_cell(cells[source, target]) for target in targets]
        told = f"{count['num_dark']} of {count['num_targets']}"
        yield f"| {source} | " + " | ".join(shown) + f" | {told} |"


def overlaps(record: Record) -> Iterator[str]:
    """Yield the matrix of how far the sources' masks overlap: kept by both / kept by either."""
    for one in record["transfers"]["overlaps"]:
        yield "| | " + " | ".join(one["names"]) + " |"
        yield "|---" * (len(one["names"]) + 1) + "|"
        for name, row in zip(one["names"], one["values"], strict=True):
            yield f"| {name} | " + " | ".join(_score(value) for value in row) + " |"


def _level(row: Mapping[str, Any], names: list[str], rule: str) -> list[str]:
    controls = {one["name"]: one for one in row["controls"]}
    outcome, told = row["outcomes"][rule], row["report_outcome"]
    same = f"{_words(outcome)} ({_words(told)} on report)" + (" **best**" if row["is_best"] else "")
    return [
        f"{row['method']} {row['sparsity']:.0%}",
        _spread(row["ticket_mean"], row["ticket_std"]),
        _score(row["report_mean"]),
        f"{row['difference']:+.4f}",
        same,
        *[_control(controls[name]) if name in controls else "" for name in names],
    ]


def _control(control: Mapping[str, Any]) -> str:
    verdict = "beaten" if control["beats"] else "not beaten"
    return f"{_score(control['mean'])}, {verdict}"


def _cell(cell: Mapping[str, Any]) -> str:
    if cell["difference_dense"] is None:
        return str(cell["state"])
    points = f"{100 * cell['difference_dense']:+.2f}"
    if cell["state"] == "lost_futility":
        return f"{points} lost"
    if cell["state"] == "diagonal":
        return f"*{points}*"
    return f"{points} \\*" if cell["dark"] else points


def _words(outcome: str) -> str:
    return outcome.replace("_", " ")


def _spread(mean: float, deviation: float) -> str:
    return f"{_score(mean)} ± {_score(deviation)}"


def _score(score: float | None) -> str:
    return "" if score is None else re.sub(r"^(-?)0\.", r"\1.", f"{score:.4f}")


if __name__ == "__main__":
    print("\n".join(tables(json.loads(Path(sys.argv[1]).read_text()))))
