"""What is left to do with a sweep's results: gather them, mirror them, report them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.choices import policy_of
from orchestrator.driver import run_sweep
from orchestrator.journal import Journal
from orchestrator.journal_reader import open_reader
from orchestrator.judging import judge_sweep
from orchestrator.listeners import SilentListener
from orchestrator.mending import mended
from orchestrator.mirror_lag import MirrorLag, lag_path, write_lag
from orchestrator.registering import register_winners
from orchestrator.requests import request_maker
from orchestrator.retries import DEFAULT_BUDGETS
from orchestrator.store import Store
from orchestrator.store_patience import at_the_end
from orchestrator.sweep_context import SweepContext
from orchestrator.tracking import MlflowTracker, experiment_of
from orchestrator.transfer_judging import judge_transfers
from search_spaces.canonical import content_key
from search_spaces.contracts import (
    Compute,
    Outcome,
    Progress,
    TrialRequest,
    TrialResult,
    TrialState,
)
from search_spaces.errors import UserError
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
    keys = [trial.key for trial in context.trials]
    found = zip(keys, store.for_each(store.read, keys), strict=True)
    results = {key: result for key, result in found if result is not None}
    if not context.journal_path.exists():
        return results, {}
    with open_reader(context.journal_path) as reader:
        over = {TrialState.FAILED, TrialState.BLOCKED}
        failed = {row.key: row.message for row in reader.trials() if row.state in over}
    return results, {key: why for key, why in failed.items() if key not in results}


def gathered(
    context: SweepContext, store: Store, say: Callable[[str], None]
) -> tuple[dict[str, TrialResult], dict[str, str]]:
    """Return what `ended` does when a run ends: it mends the journal and waits for the store.

    Raises:
        StoreLostError: The store has not answered for ``retries.store_s``.
    """

    def look() -> tuple[dict[str, TrialResult], dict[str, str]]:
        return mended(context, store, lambda: ended(context, store))

    return at_the_end(look, say, context.spec.retries.store_s)


class _NoSlots:
    """An executor on which nothing starts."""

    num_slots: int = 0
    description: str = "nowhere"

    def has_room(self, compute: Compute) -> bool:
        return False

    def submit(self, request: TrialRequest) -> None:
        raise RuntimeError("There is no slot.")

    def wait(self, timeout_s: float) -> list[Outcome]:
        return []

    def progress(self) -> list[Progress]:
        return []

    def cancel(self, trial_key: str) -> None:
        pass

    def close(self) -> None:
        pass


def settle(context: SweepContext, store: Store) -> None:
    """Let the journal of a sweep that has nothing left to run say so.

    Its last driver may have died after it committed a result and before it wrote that down, and
    another sweep may have committed what this one had still to do.
    """
    if not context.journal_path.exists() or _is_settled(context.journal_path, store):
        return

    def stop() -> None:
        raise KeyboardInterrupt

    with (
        suppress(UserError),  # another process writes it: that one tells how the sweep ends
        Journal.open(context.journal_path, context.info, time.time()) as journal,
    ):
        run_sweep(
            context.trials,
            store,
            journal,
            _NoSlots(),
            policy_of(context.spec, context.trials, store.read),
            DEFAULT_BUDGETS,
            SilentListener(),
            time.time,
            request_maker(context.spec, context.models, context.tasks, store, context.cache),
            stop,
        )


def _is_settled(path: Path, store: Store) -> bool:
    """Whether a journal has no open trial, and lacks no result of the store."""
    with open_reader(path) as reader:
        left = [row for row in reader.trials() if row.state is not TrialState.SUCCEEDED]
    return not any(not row.state.is_finished or store.read(row.key) for row in left)


def mirror_finished(
    context: SweepContext, tracker: MlflowTracker, store: Store, files: Sequence[Path] = ()
) -> None:
    """Bring MLflow up to date with a sweep that has nothing left to run.

    Args:
        context: The sweep.
        tracker: Its mirror.
        store: Has the results.
        files: Its report, where that is new.
    """
    results, failed = ended(context, store)
    num_mirrored = tracker.catch_up(context.trials, store)
    tracker.drop_copies(results.keys())
    if context.journal_path.exists():
        write_lag(lag_path(context.journal_path), MirrorLag(time.time(), num_mirrored, 0))
    spec, trials = context.spec, context.trials
    judged = judge_sweep(spec, trials, results, failed)
    transfers = judge_transfers(spec, trials, results)
    tracker.log_verdicts(judged, spec.verdict.rule, spec.replicate, transfers)
    tracker.finish(succeeded=not failed)
    register_winners(tracker, spec, trials, results, judged, store)
    if files:
        tracker.log_report(files)


def report_anew(
    context: SweepContext,
    results: Mapping[str, TrialResult],
    failed: Mapping[str, str],
    folder: Path,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Path, ...]:
    """Write the report unless the folder holds exactly this one; return its files if it did.

    Args:
        context: The sweep.
        results: Committed results by trial key.
        failed: Why trials failed for good, by key.
        folder: Where to write.
        say: Told that a store that does not answer is waited for.

    Raises:
        UserError: The folder cannot be written, or the store is lost.
    """
    digest = _report_digest(context, results, failed)
    if _files_of(folder, digest):
        return ()
    from orchestrator.report import write_report  # loads matplotlib
    from orchestrator.source_masks import source_overlaps  # loads torch

    spec, trials = context.spec, context.trials
    overlaps = at_the_end(
        lambda: source_overlaps(spec, trials, Store(spec.store)), say, spec.retries.store_s
    )
    files = write_report(spec, trials, results, failed, folder, overlaps)
    made_of = {"digest": digest, "files": [path.name for path in files]}
    (folder / _MADE_OF).write_text(json.dumps(made_of))
    return files


def report_at_hand(
    context: SweepContext,
    results: Mapping[str, TrialResult],
    failed: Mapping[str, str],
    folder: Path,
) -> tuple[Path, ...]:
    """Return the files of the report that `report_anew` wrote; none where it would write again."""
    return _files_of(folder, _report_digest(context, results, failed))


def _report_digest(
    context: SweepContext, results: Mapping[str, TrialResult], failed: Mapping[str, str]
) -> str:
    attempts = sorted((key, result.attempt) for key, result in results.items())
    return content_key([show(context.spec), attempts, sorted(failed.items())])


def _files_of(folder: Path, digest: str) -> tuple[Path, ...]:
    """Return the files of the report that a folder holds if it is whole and says this."""
    try:
        said = json.loads((folder / _MADE_OF).read_text())
        files = tuple(folder / name for name in said["files"])
        is_it = said["digest"] == digest
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return files if is_it and all(path.is_file() for path in files) else ()
