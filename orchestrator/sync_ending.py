"""What the end of a sweep wrote to MLflow, compared and mended: verdicts, tickets, files, state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.ending import report_folder
from orchestrator.finishing import report_at_hand
from orchestrator.registering import candidates_of
from orchestrator.registry_diff import TicketFault, mend_files, ticket_faults
from orchestrator.sync_sweep import PARENT, Entry, SyncedSweep
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_attached import FileFault, attached_faults
from orchestrator.tracking_client import explained
from orchestrator.tracking_verdicts import VerdictPlan, plan_verdicts, wanted_verdicts
from search_spaces.errors import UserError


@dataclass(frozen=True)
class _Faults:
    """What is wrong with what the end of a sweep wrote.

    Attributes:
        entries: Of the sweep's own run.
        verdicts: What is to be done about verdict runs.
        files: Of the sweep's own run.
        tickets: Of the registry.
    """

    entries: list[Entry]
    verdicts: VerdictPlan
    files: list[FileFault]
    tickets: list[TicketFault]


def ending_entries(
    client: MlflowClient, experiment_id: str, parent: Run | None, sweep: SyncedSweep
) -> list[Entry]:
    """Return what `mend_ending` would do; nothing is written.

    Args:
        client: Connected.
        experiment_id: Of the sweep's experiment.
        parent: The sweep's own run, if it is there.
        sweep: The sweep, which has ended.
    """
    faults = _faults(client, experiment_id, parent, sweep)
    return [
        *faults.entries,
        *_verdict_entries(faults.verdicts),
        *(_file_entry(one) for one in faults.files),
        *(_ticket_entry(one, one.why_left) for one in faults.tickets),
    ]


def mend_ending(tracker: MlflowTracker, sweep: SyncedSweep) -> list[Entry]:
    """Bring verdicts, tickets, files and the state of the sweep's own run up to date.

    Args:
        tracker: The sweep's mirror.
        sweep: The sweep, which has ended.

    Raises:
        UserError: MLflow failed.
    """
    spec, (judged, transfers) = sweep.spec, sweep.judged
    with explained(tracker.uri):
        parent = tracker.client.get_run(tracker.parent_id)
        faults = _faults(tracker.client, tracker.experiment_id, parent, sweep)
    if faults.entries:
        tracker.finish(succeeded=not sweep.failed)
    if faults.verdicts.has_work and not faults.verdicts.is_superseded:
        tracker.log_verdicts(judged, spec.verdict.rule, spec.replicate, transfers)
    elif any(one.source is None for one in faults.files):
        tracker.log_transfers(transfers)
    tracker.log_report([one.source for one in faults.files if one.source])
    return [
        *faults.entries,
        *_verdict_entries(faults.verdicts),
        *(_file_entry(one) for one in faults.files),
        *_mended_tickets(tracker, sweep, faults.tickets),
    ]


def _faults(
    client: MlflowClient, experiment_id: str, parent: Run | None, sweep: SyncedSweep
) -> _Faults:
    """Look at everything; of what another set of trials of this name took over, not at tickets."""
    spec, store, (judged, transfers) = sweep.spec, sweep.store, sweep.judged
    verdicts = _verdict_plan(client, experiment_id, parent, sweep)
    files: list[FileFault] = []
    if parent is not None:
        at_hand = report_at_hand(sweep.context, sweep.results, sweep.failed, report_folder(spec))
        told = parent.info.run_id, transfers, at_hand
        files += attached_faults(client, *told, sweep.reads_files)
    tickets: list[TicketFault] = []
    if not verdicts.is_superseded:
        wanted = candidates_of(spec, sweep.context.trials, sweep.results, judged, store)
        tickets += ticket_faults(client, experiment_id, spec.name, wanted, sweep.reads_files)
    return _Faults(_state_entries(parent, sweep), verdicts, files, tickets)


def _mended_tickets(
    tracker: MlflowTracker, sweep: SyncedSweep, faults: list[TicketFault]
) -> list[Entry]:
    """Mend the registry; a ticket that cannot be mended holds up no other."""
    if not faults:
        return []
    problems: dict[str, str] = {}
    for fault in faults:
        try:
            with explained(tracker.uri):
                mend_files(tracker.client, tracker.uri, fault)
        except UserError as error:
            tracker.check()  # a server that is gone ends it all
            problems[fault.name] = str(error)
    judged, _ = sweep.judged
    wanted = candidates_of(sweep.spec, sweep.context.trials, sweep.results, judged, sweep.store)
    try:
        tracker.register(wanted)
    except UserError:
        tracker.check()
        if not any(fault.why_left for fault in faults):  # else that is why, and it is told
            raise
    return [_ticket_entry(one, problems.get(one.name, one.why_left)) for one in faults]


def _verdict_plan(
    client: MlflowClient, experiment_id: str, parent: Run | None, sweep: SyncedSweep
) -> VerdictPlan:
    spec, (judged, transfers) = sweep.spec, sweep.judged
    tags: dict[str, str] = {"default_rule": spec.verdict.rule, "replicate": spec.replicate}
    tags |= {"mlflow.parentRunId": parent.info.run_id} if parent else {}
    wanted = wanted_verdicts(spec.name, sweep.sweep_hash, tags, judged, transfers)
    plan = plan_verdicts(client, experiment_id, spec.name, wanted)
    sweep.is_superseded = plan.is_superseded
    return plan


def _state_entries(parent: Run | None, sweep: SyncedSweep) -> list[Entry]:
    wanted = "FAILED" if sweep.failed else "FINISHED"
    if parent is None or (told := parent.info.status) == wanted:
        return []
    return [Entry(PARENT, "", f"its status is {told}, not {wanted}", "mended")]


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


def _file_entry(fault: FileFault) -> Entry:
    return Entry(PARENT, "", f"file {fault.path} {fault.problem}", "written anew")


def _ticket_entry(fault: TicketFault, why_left: str) -> Entry:
    if why_left:
        return Entry(fault.name, "", fault.problem, f"not mended: {why_left}", is_left=True)
    return Entry(fault.name, "", fault.problem, fault.remedy)
