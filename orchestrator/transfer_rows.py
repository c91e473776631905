"""Transfer tables as rows of a file, and as plain data for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from orchestrator.transfer import TransferCell
from orchestrator.transfer_judging import SourceOverlaps, TransferTable

TRANSFERS_CSV = "transfers.csv"
# Name: type and meaning. Differences and deviations are in the metric's units, not in points.
TRANSFER_COLUMNS: Mapping[str, tuple[pa.DataType, str]] = {
    "model": (pa.string(), "name in the sweep"),
    "split": (pa.string(), "select, which decides, or report, which is told"),
    "source": (pa.string(), "where the mask is from"),
    "target": (pa.string(), "task that it was fine-tuned on"),
    "state": (pa.string(), "judged, diagonal, lost_futility, undecided or not_run"),
    "sparsity": (pa.float64(), "fraction of the prunable weights removed, as the sweep has it"),
    "num_removed": (pa.int64(), "prunable weights removed, equal in all cells"),
    "n": (pa.int64(), "seeds with a score"),
    "mean": (pa.float64(), "of the scores; where the cell was stopped, of those there are"),
    "std": (pa.float64(), "of the scores over the seeds, ddof 1"),
    "dark": (pa.bool_(), "whether the mean is at least that of the target's own ticket"),
    "difference_same_task": (pa.float64(), "mean of the cell - the target's own ticket"),
    "difference_dense": (pa.float64(), "mean of the cell - dense, paired on the seeds"),
    "difference_std": (pa.float64(), "of the difference to dense over the seeds, ddof 1"),
    "interval_low": (pa.float64(), "of that difference's 95% t interval"),
    "interval_high": (pa.float64(), "of that difference's 95% t interval"),
    "delta": (pa.float64(), "largest loss that noninferior accepts"),
    "noninferior": (pa.bool_(), "whether the cell is noninferior to dense"),
    "pvalue": (pa.float64(), "against: the mean loss to dense is above delta"),
    "pvalue_holm": (pa.float64(), "the same after Holm's correction over the table"),
    "trials": (pa.string(), "keys of the trials with a result, with commas between them"),
}
_PLACED = ("interval",)  # in a cell, but in columns of their own here


def transfer_table(tables: Sequence[TransferTable], deltas: Mapping[str, float]) -> pa.Table:
    """Return a row for each cell and split, in the order of the tables.

    Args:
        tables: Of the sweep; cells that it does not ask for are left out.
        deltas: By target.
    """
    rows = [
        _row(table, cell, deltas[cell.target]) for table in tables for cell in table.asked.values()
    ]
    schema = pa.schema([(name, kind) for name, (kind, _) in TRANSFER_COLUMNS.items()])
    return pa.Table.from_pylist(rows, schema=schema)


def transfer_data(
    tables: Sequence[TransferTable], overlaps: Sequence[SourceOverlaps] = ()
) -> dict[str, Any]:
    """Return tables and overlaps as plain data."""
    return {
        "tables": [
            {
                "model": table.model,
                "split": table.split,
                "sparsity": table.sparsity,
                "num_removed": table.num_removed,
                "cells": [vars(cell) for cell in table.asked.values()],
                "dark": {name: vars(count) for name, count in table.matrix.counts.items()},
            }
            for table in tables
        ],
        "overlaps": [vars(one) for one in overlaps],
    }


def trial_keys(table: TransferTable, cell: TransferCell) -> str:
    """Return the keys of a cell's trials with a result, in the order of the seeds."""
    keys = table.trial_keys.get((cell.source, cell.target), {})
    return ",".join(key for _, key in sorted(keys.items()))


def _row(table: TransferTable, cell: TransferCell, delta: float) -> dict[str, Any]:
    low, high = cell.interval or (None, None)
    return {
        **{name: value for name, value in vars(cell).items() if name not in _PLACED},
        **{name: getattr(table, name) for name in ("model", "split", "sparsity", "num_removed")},
        "interval_low": low,
        "interval_high": high,
        "delta": delta,
        "trials": trial_keys(table, cell),
    }
