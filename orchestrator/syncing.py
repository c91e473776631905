"""Bring MLflow in line with a sweep's store and journal, and tell what was done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.choices import left_out
from orchestrator.finishing import ended, tracker_of
from orchestrator.journal_lock import is_held
from orchestrator.journal_reader import open_reader
from orchestrator.judging import Judged, judge_sweep
from orchestrator.mirror_lag import MirrorLag, lag_path, write_lag
from orchestrator.registering import register_winners
from orchestrator.steering import held_back
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from orchestrator.tracking import MlflowTracker, experiment_of, sweep_condition
from orchestrator.tracking_client import active_experiment, explained, open_existing, search_all
from orchestrator.tracking_diff import is_at_hand
from orchestrator.tracking_sync import Fault, MirrorView, mend, restore_parent
from orchestrator.tracking_verdicts import VerdictPlan, plan_verdicts, wanted_verdicts
from orchestrator.tracking_writer import told_apart
from orchestrator.transfer_judging import TransferTable, judge_transfers
from search_spaces.contracts import TrialResult, TrialState
from search_spaces.errors import UserError
from search_spaces.trial import Trial

_PARENT = "the sweep's own run"
_OVER = {TrialState.FAILED, TrialState.BLOCKED, TrialState.SKIPPED}


@dataclass(frozen=True)
class Entry:
    """Something that was wrong, and what was done.

    Attributes:
        name: Of the trial; or what else of the sweep.
        key: Of the trial; "" where it is none.
        problem: What was wrong.
        remedy: What was done, or is to be.
        is_left: Whether it could not be mended.
    """

    name: str
    key: str
    problem: str
    remedy: str
    is_left: bool = False


@dataclass(frozen=True)
class SyncReport:
    """What a synchronisation found.

    Attributes:
        experiment: Where.
        num_trials: Committed trials.
        entries: All that was wrong.
        has_verdicts: Whether the sweep has ended, so that its verdicts were looked at.
        is_superseded: Whether those of another set of trials of this name are the current ones;
            they stay so.
        are_files_read: Whether files were compared by content; else by their size.
    """

    experiment: str
    num_trials: int
    entries: tuple[Entry, ...]
    has_verdicts: bool
    is_superseded: bool
    are_files_read: bool

    @property
    def num_left(self) -> int:
        """How many could not be mended."""
        return sum(entry.is_left for entry in self.entries)


class _Sweep:
    """What the store and the journal say of a sweep, and what became known of its mirror."""

    def __init__(self, context: SweepContext, store: Store, verify: bool) -> None:
        self.context, self.store, self.spec = context, store, context.spec
        self._verify, self.reads_files, self.is_superseded = verify, True, False
        self.results, self.failed = ended(context, store)
        self.found: dict[str, tuple[Trial, TrialResult]] = {
            trial.key: (trial, self.results[trial.key])
            for trial in context.trials
            if trial.key in self.results
        }
        self.has_ended = self._has_ended()
        self.experiment, self.sweep_hash = experiment_of(self.spec), context.info.sweep_hash

    def judged(self) -> tuple[list[Judged], list[TransferTable]]:
        trials = self.context.trials
        judged = judge_sweep(self.spec, trials, self.results, self.failed)
        return judged, judge_transfers(self.spec, trials, self.results)

    def report(self, entries: list[Entry]) -> SyncReport:
        return SyncReport(
            self.experiment,
            len(self.found),
            tuple(entries),
            self.has_ended,
            self.is_superseded,
            self.reads_files,
        )

    def view(self, client: MlflowClient, experiment_id: str, parent_id: str) -> MirrorView:
        place = client.get_experiment(experiment_id).artifact_location
        self.reads_files = self._verify or is_at_hand(place)
        name = self.spec.name
        return MirrorView(client, experiment_id, name, parent_id, self.store, self.reads_files)

    def _has_ended(self) -> bool:
        """Whether every trial has a result, or it is known why it will have none."""
        trials, path = self.context.trials, self.context.journal_path
        left = {trial.key for trial in trials if trial.key not in self.results}
        if left:
            left -= left_out(self.spec, trials, self.results.get).keys()
            left -= held_back(path, trials).keys()
        if not left or not path.exists():
            return not left
        with open_reader(path) as reader:
            states = {row.key: row.state for row in reader.trials()}
        return all(states.get(key) in _OVER for key in left)


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
    sweep, uri = _Sweep(context, store, verify), context.spec.tracking.uri
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
            entries += _state_entries(parent, sweep) if parent else []
            entries += _verdict_entries(_verdict_plan(client, experiment_id, parent_id, sweep))
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
    sweep = _Sweep(context, store, verify)
    entries, tracker = _with_parent(sweep)
    with explained(tracker.uri):
        view = sweep.view(tracker.client, tracker.experiment_id, tracker.parent_id)
        faults = list(view.faults(sweep.found))
    entries += [_mended(tracker, store, fault) for fault in faults]
    if sweep.has_ended:
        entries += _log_verdicts(tracker, sweep)
    report = sweep.report(entries)
    _note_lag(context, report)
    return report


def _with_parent(sweep: _Sweep) -> tuple[list[Entry], MlflowTracker]:
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
            entries.append(Entry(_PARENT, "", "was deleted", "restored"))
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


def _log_verdicts(tracker: MlflowTracker, sweep: _Sweep) -> list[Entry]:
    """Bring verdicts, winners and the state of the sweep's own run up to date."""
    judged, transfers = sweep.judged()
    spec, trials = sweep.spec, sweep.context.trials
    with explained(tracker.uri):
        plan = _verdict_plan(tracker.client, tracker.experiment_id, tracker.parent_id, sweep)
        entries = _state_entries(tracker.client.get_run(tracker.parent_id), sweep)
    if entries:
        tracker.finish(succeeded=not sweep.failed)
    if plan.is_superseded:
        return entries
    if plan.has_work:
        tracker.log_verdicts(judged, spec.verdict.rule, spec.replicate, transfers)
    register_winners(tracker, spec, trials, sweep.results, judged, sweep.store)
    return entries + _verdict_entries(plan)


def _verdict_plan(
    client: MlflowClient, experiment_id: str, parent_id: str, sweep: _Sweep
) -> VerdictPlan:
    spec, (judged, transfers) = sweep.spec, sweep.judged()
    tags: dict[str, str] = {"default_rule": spec.verdict.rule, "replicate": spec.replicate}
    tags |= {"mlflow.parentRunId": parent_id} if parent_id else {}
    wanted = wanted_verdicts(spec.name, sweep.sweep_hash, tags, judged, transfers)
    plan = plan_verdicts(client, experiment_id, spec.name, wanted)
    sweep.is_superseded = plan.is_superseded
    return plan


def _state_entries(parent: Run, sweep: _Sweep) -> list[Entry]:
    wanted, told = "FAILED" if sweep.failed else "FINISHED", parent.info.status
    if told == wanted:
        return []
    return [Entry(_PARENT, "", f"its status is {told}, not {wanted}", "mended")]


def _verdict_entries(plan: VerdictPlan) -> list[Entry]:
    if not plan.has_work or plan.is_superseded:
        return []
    numbers: Mapping[str, int] = {
        "missing": len(plan.missing) - len(plan.changed),
        "changed or there twice": len(plan.changed),
        "of another set of trials and not withdrawn": len(plan.past),
    }
    problem = ", ".join(f"{num} {text}" for text, num in numbers.items() if num > 0)
    return [Entry("verdicts", "", problem, "written anew; the old ones are withdrawn")]


def _entry(fault: Fault, remedy: str = "", is_left: bool = False) -> Entry:
    name, key = fault.trial.main_role.label, fault.trial.key
    return Entry(name, key, fault.problem, remedy or fault.remedy, is_left)


def _sweeps_run(remedy: str) -> Entry:
    return Entry(_PARENT, "", "is missing", remedy)


def _copies_entries(num_runs: int) -> list[Entry]:
    """Return that the sweep's own run is there more than once; MlflowTracker mends it."""
    if num_runs == 1:
        return []
    return [Entry(_PARENT, "", f"is there {num_runs} times", "copies moved to MLflow's trash")]


def _note_lag(context: SweepContext, report: SyncReport) -> None:
    """Let 'tickets status' know, unless a run is there that does."""
    path = context.journal_path
    if path.exists() and not is_held(path):
        num_left = sum(entry.is_left and bool(entry.key) for entry in report.entries)
        lag = MirrorLag(time.time(), report.num_trials - num_left, num_left)
        write_lag(lag_path(path), lag)
