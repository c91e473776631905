"""How many trials of a transfer table could have been left out, and would it have said the same?

    python -m benchmarks.adaptive docs/results/tiny-transfer-70.json 0.02

The record is of a table that ran in full. Method rule 20 stops a cell after its first seed where
that is clearly below the target's own tickets on `select`; here the rule is applied afterwards.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.transfer import Pair, is_futile

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Savings:
    """What stopping early comes to.

    Attributes:
        num_cells: Cells off the diagonal.
        stopped: Those that end after one seed.
        num_runs: Trials of those cells, all seeds.
        num_kept_runs: The same with early stopping.
        changed: Stopped cells of which the full table says anything else than light and, against
            dense, not noninferior.
    """

    num_cells: int
    stopped: tuple[Pair, ...]
    num_runs: int
    num_kept_runs: int
    changed: tuple[Pair, ...]

    @property
    def ratio(self) -> float:
        """Trials with early stopping / trials without."""
        return self.num_kept_runs / self.num_runs


def savings(record: Record, delta: float) -> Savings:
    """Apply the rule to a full table, and compare with what the table says.

    Args:
        record: Of a sweep whose transfer was not adaptive.
        delta: The sweep's margin.
    """
    (table,) = (one for one in record["transfers"]["tables"] if one["split"] == "select")
    cells = {(cell["source"], cell["target"]): cell for cell in table["cells"]}
    scores = _scores(record, table["num_removed"])
    foreign = [pair for pair in cells if pair[0] != pair[1]]
    stopped = tuple(pair for pair in foreign if _is_stopped(scores, pair, delta))
    num_runs = sum(len(scores[pair]) for pair in foreign)
    saved = sum(len(scores[pair]) - 1 for pair in stopped)
    changed = tuple(p for p in stopped if cells[p]["dark"] or cells[p]["noninferior"])
    return Savings(len(foreign), stopped, num_runs, num_runs - saved, changed)


def _is_stopped(scores: Mapping[Pair, Mapping[int, float]], pair: Pair, delta: float) -> bool:
    own = scores[pair[1], pair[1]]
    first = scores[pair]
    return is_futile(first[min(first)], list(own.values()), delta)


def _scores(record: Record, num_removed: int) -> dict[Pair, dict[int, float]]:
    """Return the select score by seed of each cell; (T, T) is T's own ticket."""
    found: dict[Pair, dict[int, float]] = {}
    for row in record["trials"]:
        if row["kind"] in ("transfer", "final") and row["num_removed"] == num_removed:
            pair = (row["source"] or row["task"], row["task"])
            found.setdefault(pair, {})[row["seed"]] = row["scores"]["select"][row["metric"]]
    return found


def told(record: Record, delta: float) -> str:
    """Return the savings in one line."""
    found = savings(record, delta)
    return (
        f"{len(found.stopped)} of {found.num_cells} cells stop after one seed: "
        f"{found.num_kept_runs} of {found.num_runs} trials ({found.ratio:.2f}); "
        f"{len(found.changed)} of the stopped cells say something else in full"
    )


if __name__ == "__main__":
    print(told(json.loads(Path(sys.argv[1]).read_text()), float(sys.argv[2])))
