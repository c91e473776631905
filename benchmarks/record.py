"""Write down what a finished sweep came to: keys, masks, scores and verdicts, as JSON.

    python -m benchmarks.record examples/minilm-sst2-trec.yaml docs/results/minilm-sst2-trec.json

The file is what docs/results.md quotes and tests/test_results.py checks. A third argument, CPU
seconds of all ranks as the operating system counted them, is written down beside the wall time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine, cpu_fingerprint
from orchestrator.choices import left_out
from orchestrator.journal_reader import EventRow, open_reader
from orchestrator.judging import judge_sweep
from orchestrator.report_tables import verdict_rows
from orchestrator.source_masks import source_overlaps
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from orchestrator.transfer_judging import judge_transfers
from orchestrator.transfer_rows import transfer_data
from search_spaces.contracts import TrialResult
from search_spaces.trial import Trial


def record(sweep: Path, cpu_s: float | None = None) -> dict[str, Any]:
    """Return everything that a reader of the results may want to check.

    Args:
        sweep: Its trials have run, but for those that its policies have left out.
        cpu_s: CPU time of all ranks, where it was measured.

    Raises:
        ValueError: A trial that no policy left out has no result yet.
    """
    context = SweepContext.open(sweep)
    store = Store(context.spec.store)
    found = {trial.key: store.read(trial.key) for trial in context.trials}
    results = {key: result for key, result in found.items() if result is not None}
    judged = judge_sweep(context.spec, context.trials, results)
    with open_reader(context.journal_path) as reader:
        wall_s = busy_s(list(reader.events()), set(found))
    stopped = [trial for trial in context.trials if trial.key not in results]
    reasons = left_out(context.spec, context.trials, results.get)
    for trial in stopped:
        if trial.key not in reasons:
            raise ValueError(f"{trial.main_role.label} has no result yet: run the sweep first.")
    return {
        "sweep": context.spec.name,
        "file": str(sweep),
        "machine": Machine().facts(),
        "cpu_fingerprint": cpu_fingerprint(),
        "code_version": min(trial.spec.code_version for trial in context.trials),
        "numerics": sorted({result.numerics.model_dump_json() for result in results.values()}),
        "wall_s": round(wall_s, 1),
        "cpu_s": cpu_s,
        "trial_s": round(sum(result.seconds["total"] for result in results.values()), 1),
        "verdicts": [asdict(row) for row in verdict_rows(judged, context.spec.verdict.rule)],
        "transfers": transfer_data(
            judge_transfers(context.spec, context.trials, results),
            source_overlaps(context.spec, context.trials, store),
        ),
        "stopped": [{"key": trial.key, "label": trial.main_role.label} for trial in stopped],
        "trials": [
            _row(trial, results[trial.key]) for trial in context.trials if trial.key in results
        ],
    }


def busy_s(events: Sequence[EventRow], keys: Collection[str]) -> float:
    """Return the seconds in which at least one of some trials was running.

    A sweep may be stopped and taken up again: the time between counts for nothing. Where its
    process died, no more is known than the last event before.
    """
    running: set[str] = set()
    total, since, last = 0.0, 0.0, 0.0
    for event in events:
        if event.key not in keys or event.kind == "refused":  # an attempt that was over before
            continue
        # Written by the next process, when it began: the attempt ended long before.
        at = last if event.kind == "interrupted" else event.at
        if event.kind == "started":
            since = since if running else at
            running.add(event.key)
        elif event.key in running:
            running.discard(event.key)
            total += 0.0 if running else at - since
        last = at
    return total


def _row(trial: Trial, result: TrialResult) -> dict[str, Any]:
    role = trial.main_role
    return {
        "key": trial.key,
        "label": role.label,
        "kind": trial.kind,
        "task": role.task,
        "source": role.source_task,
        "method": role.method,
        "seed": role.seed,
        "sparsity": role.sparsity,
        "num_removed": trial.spec.num_removed,
        "metric": result.metric,
        "mask_sha256": result.input_mask.sha256 if result.input_mask else None,
        "scores": {split: score.metrics for split, score in sorted(result.scores.items())},
        "final_loss": result.losses[-1][1],
        "seconds": round(result.seconds["total"], 1),
    }


if __name__ == "__main__":
    place = Path(sys.argv[2])
    place.parent.mkdir(parents=True, exist_ok=True)
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else None
    place.write_text(json.dumps(record(Path(sys.argv[1]), seconds), indent=1, default=str) + "\n")
