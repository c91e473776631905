"""Compare MLflow with the store, trial by trial, and mend what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from orchestrator.store import Store
from orchestrator.tracking import MlflowTracker, sweep_condition
from orchestrator.tracking_client import explained, search_all
from orchestrator.tracking_diff import OF_ONE_SWEEP, Difference, differences
from orchestrator.tracking_writer import RunContent, is_own, told_apart, trial_content, wanted_files
from search_spaces.contracts import TrialResult
from search_spaces.trial import Trial

ANEW = "made anew, because MLflow cannot change what was logged; the old run is in its trash"
_Found = tuple[Trial, TrialResult]


@dataclass(frozen=True)
class Fault:
    """What is wrong with the run of one trial.

    Attributes:
        trial: The trial.
        result: Its committed result.
        problem: What people are told.
        remedy: What is done about it.
        run: The run to write on, or whose notes the new one gets; None where there is none.
        is_deleted: Whether that run lies in MLflow's trash.
        is_anew: Whether a new run takes its place.
        is_whole: Whether the run needs nothing but to be restored.
        copies: Runs that go.
    """

    trial: Trial
    result: TrialResult
    problem: str
    remedy: str
    run: Run | None = None
    is_deleted: bool = False
    is_anew: bool = True
    is_whole: bool = False
    copies: tuple[Run, ...] = ()


@dataclass(frozen=True)
class MirrorView:
    """Looks at a sweep's runs in an experiment, and writes nothing.

    Attributes:
        client: Connected.
        experiment_id: Of the experiment.
        sweep: Name of the sweep.
        parent_id: The sweep's run; "" where there is none.
        store: Where masks and lineages are.
        reads_files: Whether files of the right size are read, and their content compared.
    """

    client: MlflowClient
    experiment_id: str
    sweep: str
    parent_id: str
    store: Store
    reads_files: bool = True
    _sweeps: dict[str, str] = field(default_factory=dict)  # names of sweeps by run id

    def faults(self, found: Mapping[str, _Found]) -> Iterator[Fault]:
        """Yield what is wrong with the runs of trials.

        Args:
            found: Trials and their committed results by key.
        """
        asked = "tags.kind = 'sweep' and tags.sweep != ''"
        for run in search_all(self.client, self.experiment_id, asked):
            self._sweeps[run.info.run_id] = run.data.tags["sweep"]
        runs: dict[str, list[Run]] = {}
        asked = "tags.trial_key != ''"
        for run in search_all(self.client, self.experiment_id, asked, ViewType.ALL):
            if is_own(run):
                runs.setdefault(run.data.tags["trial_key"], []).append(run)
        for key, (trial, result) in found.items():
            fault = self._fault(trial, result, runs.get(key, []))
            if fault is not None:
                yield fault

    def _fault(self, trial: Trial, result: TrialResult, runs: list[Run]) -> Fault | None:
        active = [run for run in runs if run.info.lifecycle_stage == "active"]
        if not active:
            return self._without_run(trial, result, runs)
        run, copies = told_apart(active)
        assert run is not None, "one is active"
        wrong = self._differences(run, trial, result)
        problem = "; ".join(one.text for one in wrong)
        is_anew = any(one.is_final for one in wrong)
        fault = Fault(trial, result, problem, ANEW if is_anew else "mended", run, is_anew=is_anew)
        if copies:
            texts = [f"its run is there {len(active)} times", *([problem] if problem else [])]
            remedy = "copies moved to MLflow's trash"
            remedy = f"{fault.remedy}; {remedy}" if problem else remedy
            return replace(
                fault,
                problem="; ".join(texts),
                remedy=remedy,
                copies=tuple(copies),
                is_whole=not wrong,
            )
        return fault if wrong else None

    def _without_run(self, trial: Trial, result: TrialResult, trash: list[Run]) -> Fault:
        """Return how a trial without an active run gets one: out of the trash, or a new one."""
        told = ""
        newest = sorted(trash, key=lambda run: (run.info.status == "FINISHED", run.info.start_time))
        for run in reversed(newest):
            wrong = self._differences(run, trial, result)
            final = [one.text for one in wrong if one.is_final]
            if not final:
                remedy = "restored and completed" if wrong else "restored"
                texts = ["its run was deleted", *(one.text for one in wrong)]
                problem = "; ".join(texts)
                return Fault(trial, result, problem, remedy, run, True, False, not wrong)
            told = told or final[0]
        if told:
            problem = f"its run was deleted, and says otherwise: {told}"
            return Fault(trial, result, problem, ANEW, newest[-1], True)
        return Fault(trial, result, "its run is missing", "made")

    def _differences(self, run: Run, trial: Trial, result: TrialResult) -> list[Difference]:
        content = trial_content(trial, result, self.sweep, self.parent_id)
        files = wanted_files(trial, result, self.store)
        ignored = self._ignored(run)
        return differences(self.client, run, content, files, ignored, self.reads_files)

    def _ignored(self, run: Run) -> frozenset[str]:
        """Return the tags that are another sweep's: both have the trial, and one has the run."""
        tags = run.data.tags
        owner = self._sweeps.get(tags.get("mlflow.parentRunId", ""))
        if owner not in (None, self.sweep) and owner == tags["sweep"]:
            return OF_ONE_SWEEP
        return frozenset() if self.parent_id else frozenset({"mlflow.parentRunId"})


def mend(tracker: MlflowTracker, store: Store, fault: Fault) -> None:
    """Do what a fault's remedy says; what a kill leaves half done is a fault again.

    Raises:
        UserError: MLflow failed, or a file cannot be read.
    """
    trial, result, run = fault.trial, fault.result, fault.run
    with explained(tracker.uri):
        for copy in fault.copies:
            tracker.client.delete_run(copy.info.run_id)
        if run is not None and fault.is_deleted and not fault.is_anew:
            tracker.client.restore_run(run.info.run_id)
    if run is None:
        tracker.mirror(trial, result, store)
    elif fault.is_anew:
        tracker.make_anew(run, trial, result, store)
    elif not fault.is_whole:
        tracker.write(run.info.run_id, _content(tracker, trial, result), trial, result, store)


def restore_parent(client: MlflowClient, experiment_id: str, sweep: str, sweep_hash: str) -> bool:
    """Take a sweep's own run out of MLflow's trash if it is nowhere else; return whether it was."""
    asked = sweep_condition(sweep, sweep_hash)
    runs = search_all(client, experiment_id, asked, ViewType.ALL)
    if not runs or any(run.info.lifecycle_stage == "active" for run in runs):
        return False
    newest = max(runs, key=lambda run: run.info.start_time)
    client.restore_run(newest.info.run_id)
    return True


def _content(tracker: MlflowTracker, trial: Trial, result: TrialResult) -> RunContent:
    return trial_content(trial, result, tracker.sweep, tracker.parent_id)
