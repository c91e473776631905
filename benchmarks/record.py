"""Write down what a finished sweep came to: keys, masks, scores and verdicts, as JSON.

    python -m benchmarks.record examples/minilm-sst2-trec.yaml docs/results/minilm-sst2-trec.json

The file is what docs/results.md quotes and tests/test_results.py checks.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine, cpu_fingerprint
from orchestrator.journal_reader import open_reader
from orchestrator.judging import judge_sweep
from orchestrator.report_tables import verdict_rows
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from search_spaces.contracts import TrialResult
from search_spaces.trial import Trial


def record(sweep: Path) -> dict[str, Any]:
    """Return everything that a reader of the results may want to check.

    Raises:
        KeyError: A trial of the sweep has no result yet.
    """
    context = SweepContext.open(sweep)
    store = Store(context.spec.store)
    found = {trial.key: store.read(trial.key) for trial in context.trials}
    results = {key: result for key, result in found.items() if result is not None}
    judged = judge_sweep(context.spec, context.trials, results)
    with open_reader(context.journal_path) as reader:
        times = [event.at for event in reader.events()]
    return {
        "sweep": context.spec.name,
        "file": str(sweep),
        "machine": Machine().facts(),
        "cpu_fingerprint": cpu_fingerprint(),
        "code_version": context.trials[0].spec.code_version,
        "numerics": sorted({result.numerics.model_dump_json() for result in results.values()}),
        "wall_s": round(times[-1] - times[0], 1),
        "trial_s": round(sum(result.seconds["total"] for result in results.values()), 1),
        "verdicts": [asdict(row) for row in verdict_rows(judged, context.spec.verdict.rule)],
        "trials": [_row(trial, results[trial.key]) for trial in context.trials],
    }


def _row(trial: Trial, result: TrialResult) -> dict[str, Any]:
    role = trial.main_role
    return {
        "key": trial.key,
        "label": role.label,
        "kind": trial.kind,
        "task": role.task,
        "method": role.method,
        "seed": role.seed,
        "sparsity": role.sparsity,
        "num_removed": trial.spec.num_removed,
        "mask_sha256": result.input_mask.sha256 if result.input_mask else None,
        "scores": {split: score.metrics for split, score in sorted(result.scores.items())},
        "final_loss": result.losses[-1][1],
        "seconds": round(result.seconds["total"], 1),
    }


if __name__ == "__main__":
    place = Path(sys.argv[2])
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(record(Path(sys.argv[1])), indent=1, default=str) + "\n")
