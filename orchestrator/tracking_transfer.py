"""What a transfer table looks like in MLflow: one row for each cell, judged on select."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.judging import REPORT, SELECT
from orchestrator.tracking_rows import VerdictRow
from orchestrator.transfer import TransferCell
from orchestrator.transfer_judging import TransferTable
from orchestrator.transfer_rows import trial_keys

TRANSFER_VERDICT = "transfer-verdict"
_WORDS = {True: "true", False: "false", None: "undecided"}
_TOLD = ("difference_dense", "difference_same_task", "pvalue", "pvalue_holm")
NUMBERS = ("mean", "std", "n", *_TOLD, "interval_low", "interval_high")  # a cell's metrics


def transfer_verdicts(tables: Sequence[TransferTable]) -> Iterator[VerdictRow]:
    """Yield a row for each cell that the sweep asks for, with its report numbers beside.

    Args:
        tables: Of the sweep, on both splits.
    """
    reported = {table.model: table.matrix for table in tables if table.split == REPORT}
    for table in tables:
        if table.split == SELECT:
            for pair, cell in table.asked.items():
                yield _row(table, cell, reported[table.model].cells[pair])


def _row(table: TransferTable, ours: TransferCell, theirs: TransferCell) -> VerdictRow:
    metrics = {"sparsity": table.sparsity, "num_removed": float(table.num_removed)}
    metrics |= _numbers(ours, "") | _numbers(theirs, "report.")
    tags = {
        "kind": TRANSFER_VERDICT,
        "model": table.model,
        "source": ours.source,
        "target": ours.target,
        "state": ours.state,
        "dark": _WORDS[ours.dark],
        "noninferior": _WORDS[ours.noninferior],
        "report.dark": _WORDS[theirs.dark],
        "report.noninferior": _WORDS[theirs.noninferior],
        "trials": trial_keys(table, ours),
    }
    pair = (ours.source, ours.target)
    identity = (TRANSFER_VERDICT, table.model, *pair, str(table.num_removed))
    name = f"transfer:{ours.source}>{ours.target}:{table.sparsity:.3g}"
    return identity, name, metrics, tags


def _numbers(cell: TransferCell, prefix: str) -> dict[str, float]:
    low, high = cell.interval or (None, None)
    known = {"interval_low": low, "interval_high": high}
    numbers = {name: known[name] if name in known else getattr(cell, name) for name in NUMBERS}
    return {prefix + name: float(value) for name, value in numbers.items() if value is not None}
