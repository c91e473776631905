"""Every trial and verdict of a sweep as rows of a table, for people's own analyses.

``trials.csv`` and ``trials.parquet`` hold a row for each trial and split; a trial without a result
has one row without a split. Columns have a fixed order: those of `TRIAL_COLUMNS`, and where
it names ``metric_*`` and ``seconds_*`` one column for each metric and phase, sorted. A column's
name, unit and meaning are in that table, which the page shows as well. ``verdicts.csv`` has a row
for each verdict. Nothing is rounded: numbers read back are the ones that were measured.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from orchestrator.judging import SELECT
from orchestrator.report_tables import VerdictRow
from orchestrator.rules import RULES
from search_spaces.contracts import TrialResult
from search_spaces.trial import Trial

TRIALS_CSV, TRIALS_PARQUET, VERDICTS_CSV = "trials.csv", "trials.parquet", "verdicts.csv"
# Name: type and meaning. A star stands for one column for each of what follows.
TRIAL_COLUMNS: Mapping[str, tuple[pa.DataType, str]] = {
    "key": (pa.string(), "the trial's key"),
    "kind": (pa.string(), "dense, final, control, transfer or round: the trial's first role"),
    "roles": (pa.string(), "all of its roles, with commas between them"),
    "model": (pa.string(), "name in the sweep"),
    "task": (pa.string(), "name in the sweep"),
    "source_task": (pa.string(), "task that the mask comes from, where it is another one"),
    "method": (pa.string(), "of the mask, or the control's name; empty for dense"),
    "seed": (pa.int64(), "the replicate, on which ticket and dense pair"),
    "search_seed": (pa.int64(), "seed of the lineage that made the mask"),
    "round_index": (pa.int64(), "of a round; 0 is dense"),
    "level_index": (pa.int64(), "place in the sweep's levels"),
    "sparsity": (pa.float64(), "fraction of the prunable weights removed, in [0, 1)"),
    "num_removed": (pa.int64(), "prunable weights removed"),
    "num_prunable": (pa.int64(), "prunable weights"),
    "state": (pa.string(), "result, failed or not run"),
    "message": (pa.string(), "why it failed"),
    "split": (pa.string(), "select, report or another one that was scored"),
    "metric": (pa.string(), "name of the task's primary metric"),
    "score": (pa.float64(), "the primary metric after the last step; higher is better"),
    "num_examples": (pa.int64(), "of the split"),
    "constant_predictor": (pa.bool_(), "whether all predictions were equal"),
    "metric_*": (pa.float64(), "each metric of the split"),
    "loss": (pa.float64(), "last training loss that was kept"),
    "num_steps": (pa.int64(), "optimizer steps"),
    "num_train_tokens": (pa.int64(), "tokens trained on"),
    "num_truncated": (pa.int64(), "training examples cut at max_length"),
    "seconds_*": (pa.float64(), "duration of each phase in seconds"),
    "peak_memory_gib": (pa.float64(), "GiB"),
    "attempt": (pa.string(), "the attempt that was committed"),
    "resumed_at_step": (pa.int64(), "step after which it went on from a checkpoint; 0: the start"),
    "restart_reason": (pa.string(), "why a checkpoint that was there could not be used"),
    "host": (pa.string(), "where it ran"),
    "started_at": (pa.string(), "UTC, ISO 8601"),
    "device": (pa.string(), "numerics: cpu, or the GPU's name"),
    "dtype": (pa.string(), "numerics: of the weights in training"),
    "layout": (pa.string(), "numerics: unpadded or padded"),
    "num_ranks": (pa.int64(), "numerics: processes"),
    "micro_batch_size": (pa.int64(), "numerics: examples at once on a rank"),
    "num_threads": (pa.int64(), "numerics: CPU threads of a rank"),
    "exchange": (pa.string(), "numerics: how ranks share gradients; empty for one rank"),
    "versions": (pa.string(), "numerics: of the libraries, as JSON"),
    "mask_sha256": (pa.string(), "of the mask that it was trained under"),
    "num_collapsed": (pa.int64(), "matrices left with under 1% of their weights"),
}
_METRICS, _SECONDS = "metric_*", "seconds_*"
_NUMERICS = (
    "device",
    "dtype",
    "layout",
    "num_ranks",
    "micro_batch_size",
    "num_threads",
    "exchange",
)
_COUNTED = ("metric", "num_steps", "num_train_tokens", "num_truncated", "peak_memory_gib")
_COPIED = (*_COUNTED, "attempt", "resumed_at_step", "host", "started_at")


def row_files(
    trials: Sequence[Trial],
    results: Mapping[str, TrialResult],
    failed: Mapping[str, str],
    verdicts: pa.Table,
) -> dict[str, bytes]:
    """Return the files of rows by name; arguments as for ``trial_table``."""
    made = trial_table(trials, results, failed)
    return {
        TRIALS_CSV: csv_bytes(made),
        TRIALS_PARQUET: parquet_bytes(made),
        VERDICTS_CSV: csv_bytes(verdicts),
    }


def trial_table(
    trials: Sequence[Trial], results: Mapping[str, TrialResult], failed: Mapping[str, str]
) -> pa.Table:
    """Return a row for each trial and split, in the order of the sweep, select first.

    Args:
        trials: Of the sweep.
        results: Committed results by trial key; those of other sweeps are ignored.
        failed: Why a trial failed for good, by its key.
    """
    own = [results[trial.key] for trial in trials if trial.key in results]
    metrics = {name for one in own for split in one.scores.values() for name in split.metrics}
    phases = {phase for one in own for phase in one.seconds}
    rows = [row for trial in trials for row in _rows(trial, results.get(trial.key), failed)]
    return pa.Table.from_pylist(rows, schema=_schema(metrics, phases))


def verdict_table(rows: Sequence[VerdictRow], rule: str, deltas: Mapping[str, float]) -> pa.Table:
    """Return a row for each verdict; intervals and bounds are of ticket - dense.

    Args:
        rows: What the report shows.
        rule: The sweep's rule, which ``is_best`` and ``report_outcome`` follow.
        deltas: By task.
    """
    made = [_verdict(row, rule, deltas[row.task]) for row in rows]
    names = list(dict.fromkeys(name for row in made for name in row)) or ["model"]
    return pa.table({name: [row.get(name) for row in made] for name in names})


def csv_bytes(table: pa.Table) -> bytes:
    """Return a table as CSV with a header; a missing value is empty."""
    sink = io.BytesIO()
    pa.csv.write_csv(table, sink)
    return sink.getvalue()


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as Parquet; equal tables give equal bytes."""
    sink = io.BytesIO()
    pa.parquet.write_table(table, sink)
    return sink.getvalue()


def _schema(metrics: set[str], phases: set[str]) -> pa.Schema:
    fields = []
    for name, (kind, _) in TRIAL_COLUMNS.items():
        starred = {_METRICS: metrics, _SECONDS: phases}.get(name)
        names = [name] if starred is None else [name[:-1] + one for one in sorted(starred)]
        fields += [(one, kind) for one in names]
    return pa.schema(fields)


def _rows(
    trial: Trial, result: TrialResult | None, failed: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    named = _identity(trial)
    if result is None:
        message = failed.get(trial.key)
        yield {**named, "state": "not run" if message is None else "failed", "message": message}
        return
    told = _outcome(result)
    if not result.scores:
        yield {**named, **told}
    for split in sorted(result.scores, key=lambda split: (split != SELECT, split)):
        scored = result.scores[split]
        yield {
            **named,
            **told,
            "split": split,
            "score": scored.metrics.get(result.metric),
            "num_examples": scored.num_examples,
            "constant_predictor": scored.constant_predictor,
            **{f"metric_{name}": value for name, value in scored.metrics.items()},
        }


def _identity(trial: Trial) -> dict[str, Any]:
    role = trial.main_role
    copied = ("kind", "model", "task", "method", "seed", "search_seed", "round_index")
    return {
        "key": trial.key,
        "roles": ", ".join(dict.fromkeys(role.label for role in trial.roles)),
        **{name: getattr(role, name) for name in (*copied, "level_index")},
        "source_task": role.source_task or None,
        "sparsity": trial.spec.num_removed / trial.spec.model.num_prunable,
        "num_removed": trial.spec.num_removed,
        "num_prunable": trial.spec.model.num_prunable,
    }


def _outcome(result: TrialResult) -> dict[str, Any]:
    mask = result.input_mask
    return {
        "state": "result",
        **{name: getattr(result, name) for name in _COPIED},
        **{name: getattr(result.numerics, name) for name in _NUMERICS},
        "restart_reason": result.restart_reason or None,
        "versions": json.dumps(result.numerics.versions, sort_keys=True),
        "loss": result.losses[-1][1] if result.losses else None,
        **{f"seconds_{phase}": value for phase, value in result.seconds.items()},
        "mask_sha256": mask.sha256 if mask else None,
        "num_collapsed": len(mask.collapsed) if mask else None,
    }


def _verdict(row: VerdictRow, rule: str, delta: float) -> dict[str, Any]:
    split = ("outcomes", "controls", "flags", "difference_interval", "report_interval")
    made = {name: value for name, value in vars(row).items() if name not in split}
    low, high = row.difference_interval or (None, None)
    report_low, report_high = row.report_interval or (None, None)
    made |= {"rule": rule, "delta": delta, "flags": ", ".join(row.flags)}
    made |= {"difference_interval_low": low, "difference_interval_high": high}
    made |= {"report_interval_low": report_low, "report_interval_high": report_high}
    made |= {f"outcome_{name}": row.outcomes[name] for name in RULES}
    for control in row.controls:
        told = {name: value for name, value in vars(control).items() if name != "name"}
        made |= {f"{control.name}_{name}": value for name, value in told.items()}
    return made
