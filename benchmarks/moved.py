"""Did scores move between two records of one sweep, and how much faster was the second?

    python -m benchmarks.moved OLD.json NEW.json

Prints a Markdown table: each network's select score in both, paired over seeds, with the t interval
of the mean difference; then the same over all trials, and the ratios of seconds.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from orchestrator.statistics import t_interval

CONFIDENCE = 0.90
Record = Mapping[str, Any]


def table(old: Record, new: Record) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| task | network | before | now | difference, 90% interval |"
    yield "|---|---|---:|---:|---|"
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for before, now in paired(old, new):
        score = tuple(row["scores"]["select"]["accuracy"] for row in (before, now))
        pairs[now["task"], network(now)].append((score[0], score[1]))
    for (task, name), scores in pairs.items():
        means = [_short(mean(column)) for column in zip(*scores, strict=True)]
        yield f"| {task} | {name} | {means[0]} | {means[1]} | {_difference(scores)} |"
    every = [pair for scores in pairs.values() for pair in scores]
    yield f"| both | all {len(every)} trials | | | {_difference(every)} |"


def speed(old: Record, new: Record) -> Iterator[str]:
    """Yield the ratios of seconds: the sweep's wall time, and the trials' own by task."""
    yield f"wall: {old['wall_s']:,.0f} s / {new['wall_s']:,.0f} s = {_ratio(old, new, 'wall_s')}"
    yield f"trials: {old['trial_s']:,.0f} s / {new['trial_s']:,.0f} s = " + _ratio(
        old, new, "trial_s"
    )
    for task in dict.fromkeys(row["task"] for row in new["trials"]):
        seconds = [
            mean(row["seconds"] for row in record["trials"] if row["task"] == task)
            for record in (old, new)
        ]
        told = " s / ".join(f"{value:.0f}" for value in seconds)
        yield f"mean trial of {task}: {told} s = {seconds[0] / seconds[1]:.2f}x"


def paired(old: Record, new: Record) -> Iterator[tuple[Any, Any]]:
    """Yield each trial of the new record with the old one of the same name and seed."""
    before = {(row["label"], row["seed"]): row for row in old["trials"]}
    for row in new["trials"]:
        yield before[row["label"], row["seed"]], row


def network(row: Record) -> str:
    """Return what a trial trains, whatever its seed."""
    if row["kind"] == "dense":
        return "dense"
    return f"{row['method']} {row['sparsity']:.0%}"


def _difference(scores: list[tuple[float, float]]) -> str:
    differences = [now - before for before, now in scores]
    low, high = t_interval(differences, CONFIDENCE)
    return f"{mean(differences):+.4f}, {low:+.4f} to {high:+.4f}"


def _short(score: float) -> str:
    return f"{score:.4f}".removeprefix("0")


def _ratio(old: Record, new: Record, field: str) -> str:
    return f"{old[field] / new[field]:.2f}x"


if __name__ == "__main__":
    records = [json.loads(Path(name).read_text()) for name in sys.argv[1:3]]
    print("\n".join([*table(*records), "", *speed(*records)]))
