"""Bring MLflow in line with a sweep's store and journal, and tell what was done."""

from __future__ import annotations

import time

from orchestrator.finishing import tracker_of
from orchestrator.journal_lock import is_held
from orchestrator.mirror_lag import MirrorLag, lag_path, write_lag
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from orchestrator.sync_ending import ending_entries, mend_ending
from orchestrator.sync_sweep import PARENT, Entry, SyncedSweep, SyncReport
from orchestrator.tracking import MlflowTracker, sweep_condition
from orchestrator.tracking_client import active_experiment, explained, open_existing, search_all
from orchestrator.tracking_sync import Fault, mend, restore_parent
from orchestrator.tracking_writer import told_apart
from search_spaces.errors import UserError


def check_mirror(context: SweepContext, store: Store, verify: bool = False) -> SyncReport:
    """Return what ``sync_mirror`` would do; nothing is written.

    Args:
        context: The sweep.
        store: Has its results.
        verify: Whether files are read that MLflow keeps elsewhere than in a folder, too; else
            these are compared by size.

    Raises:
        UserError: MLflow does not answer, or there is no such database.
    """
    sweep, uri = SyncedSweep(context, store, verify), context.spec.tracking.uri
    client = open_existing(uri)
    with explained(uri):
        experiment_id = active_experiment(client, uri, sweep.experiment)
        if experiment_id is None:
            return sweep.report([Entry("experiment", "", "is missing", "made, with all its runs")])
        asked = sweep_condition(sweep.spec.name, sweep.sweep_hash)
        parents = search_all(client, experiment_id, asked)
        parent, _ = told_apart(parents)
        parent_id = parent.info.run_id if parent else ""
        entries = _copies_entries(len(parents)) if parent else [_sweeps_run("restored or made")]
        view = sweep.view(client, experiment_id, parent_id)
        entries += [_entry(fault) for fault in view.faults(sweep.found)]
        if sweep.has_ended:
            entries += ending_entries(client, experiment_id, parent, sweep)
    return sweep.report(entries)


def sync_mirror(context: SweepContext, store: Store, verify: bool = False) -> SyncReport:
    """Mend what MLflow lacks or says otherwise; a run that cannot be mended holds up no other.

    Args:
        context: The sweep.
        store: Has its results.
        verify: As for `check_mirror`.

    Raises:
        UserError: MLflow does not answer, or ceases to.
    """
    sweep = SyncedSweep(context, store, verify)
    entries, tracker = _with_parent(sweep)
    with explained(tracker.uri):
        view = sweep.view(tracker.client, tracker.experiment_id, tracker.parent_id)
        faults = list(view.faults(sweep.found))
    entries += [_mended(tracker, store, fault) for fault in faults]
    if sweep.has_ended:
        entries += mend_ending(tracker, sweep)
    report = sweep.report(entries)
    _note_lag(context, report)
    return report


def _with_parent(sweep: SyncedSweep) -> tuple[list[Entry], MlflowTracker]:
    """Return the mirror, and what was wrong with the sweep's own run before it was opened."""
    entries, uri = list[Entry](), sweep.spec.tracking.uri
    asked = sweep_condition(sweep.spec.name, sweep.sweep_hash)
    try:
        client = open_existing(uri)
    except UserError:  # the database is made with the tracker; else that one says it again
        return [_sweeps_run("made")], tracker_of(sweep.context)
    with explained(uri):
        experiment_id = active_experiment(client, uri, sweep.experiment)
        if experiment_id is None:
            entries.append(Entry("experiment", "", "is missing", "made"))
        elif restore_parent(client, experiment_id, sweep.spec.name, sweep.sweep_hash):
            entries.append(Entry(PARENT, "", "was deleted", "restored"))
        else:
            num = len(search_all(client, experiment_id, asked))
            entries += _copies_entries(num) if num else [_sweeps_run("made")]
    return entries, tracker_of(sweep.context)


def _mended(tracker: MlflowTracker, store: Store, fault: Fault) -> Entry:
    try:
        mend(tracker, store, fault)
    except UserError as error:
        tracker.check()  # a server that is gone ends it all
        return _entry(fault, remedy=f"not mended: {error}", is_left=True)
    return _entry(fault)


def _entry(fault: Fault, remedy: str = "", is_left: bool = False) -> Entry:
    name, key = fault.trial.main_role.label, fault.trial.key
    return Entry(name, key, fault.problem, remedy or fault.remedy, is_left)


def _sweeps_run(remedy: str) -> Entry:
    return Entry(PARENT, "", "is missing", remedy)


def _copies_entries(num_runs: int) -> list[Entry]:
    """Return that the sweep's own run is there more than once; MlflowTracker mends it."""
    if num_runs == 1:
        return []
    return [Entry(PARENT, "", f"is there {num_runs} times", "copies moved to MLflow's trash")]


def _note_lag(context: SweepContext, report: SyncReport) -> None:
    """Let 'tickets status' know, unless a run is there that does."""
    path = context.journal_path
    if path.exists() and not is_held(path):
        num_left = sum(entry.is_left and bool(entry.key) for entry in report.entries)
        lag = MirrorLag(time.time(), report.num_trials - num_left, num_left)
        write_lag(lag_path(path), lag)
