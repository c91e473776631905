"""What is left to do with a sweep's results: gather them, mirror them, report them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from orchestrator.journal_reader import open_reader
from orchestrator.judging import judge_sweep
from orchestrator.registering import register_winners
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from orchestrator.tracking import MlflowTracker, experiment_of
from orchestrator.transfer_judging import judge_transfers
from search_spaces.canonical import content_key
from search_spaces.contracts import TrialResult, TrialState
from search_spaces.loading import show

_MADE_OF = ".made-of.json"  # in a report's folder: what the report there says


def tracker_of(context: SweepContext) -> MlflowTracker:
    """Return the mirror of a sweep.

    Raises:
        UserError: MLflow does not answer.
    """
    spec = context.spec
    return MlflowTracker(spec.tracking.uri, experiment_of(spec), spec.name, context.info.sweep_hash)


def ended(context: SweepContext, store: Store) -> tuple[dict[str, TrialResult], dict[str, str]]:
    """Return a sweep's committed results, and why its other trials failed or are blocked."""
    found = {trial.key: store.read(trial.key) for trial in context.trials}
    results = {key: result for key, result in found.items() if result is not None}
    if not context.journal_path.exists():
        return results, {}
    with open_reader(context.journal_path) as reader:
        over = {TrialState.FAILED, TrialState.BLOCKED}
        failed = {row.key: row.message for row in reader.trials() if row.state in over}
    return results, {key: why for key, why in failed.items() if key not in results}


def mirror_finished(context: SweepContext, tracker: MlflowTracker, store: Store) -> None:
    """Bring MLflow up to date with a sweep that has nothing left to run."""
    results, failed = ended(context, store)
    tracker.catch_up(context.trials, store)
    spec, trials = context.spec, context.trials
    judged = judge_sweep(spec, trials, results, failed)
    transfers = judge_transfers(spec, trials, results)
    tracker.log_verdicts(judged, spec.verdict.rule, spec.replicate, transfers)
    tracker.finish(succeeded=True)
    register_winners(tracker, spec, trials, results, judged, store)


def report_anew(
    context: SweepContext,
    results: Mapping[str, TrialResult],
    failed: Mapping[str, str],
    folder: Path,
) -> tuple[Path, ...]:
    """Write the report unless the folder holds exactly this one; return its files if it did.

    Raises:
        UserError: The folder cannot be written.
    """
    attempts = sorted((key, result.attempt) for key, result in results.items())
    digest = content_key([show(context.spec), attempts, sorted(failed.items())])
    if _made_of(folder, context.spec.transfer is not None) == digest:
        return ()
    from orchestrator.report import write_report  # loads matplotlib
    from orchestrator.source_masks import source_overlaps  # loads torch

    spec, trials = context.spec, context.trials
    overlaps = source_overlaps(spec, trials, Store(spec.store))
    files = write_report(spec, trials, results, failed, folder, overlaps)
    (folder / _MADE_OF).write_text(json.dumps({"digest": digest}))
    return files


def _made_of(folder: Path, has_transfer: bool) -> str | None:
    """Return the digest of the report that a folder holds."""
    try:
        said: dict[str, str] = json.loads((folder / _MADE_OF).read_text())
    except (OSError, ValueError):
        return None
    names = ["report.html", "trials.parquet", *(["transfers.csv"] if has_transfer else [])]
    whole = all((folder / name).exists() for name in names)
    return said.get("digest") if whole else None
