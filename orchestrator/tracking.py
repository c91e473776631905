"""Mirror a sweep to MLflow: one run per trial and per verdict, found again before it is made."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mlflow.entities import Run, RunData

from orchestrator.judging import Judged
from orchestrator.registry import Candidate, TicketRegistry
from orchestrator.store import Store
from orchestrator.tracking_attached import REPORT_FOLDER, TRANSFER_FILE
from orchestrator.tracking_client import (
    ANSWER_TIMEOUT_S,
    explained,
    found_or_made_experiment,
    open_client,
    quoted,
    search_each,
)
from orchestrator.tracking_verdicts import (
    Verdict,
    VerdictPlan,
    drop_copies,
    plan_verdicts,
    wanted_verdicts,
    withdraw,
    write_verdict,
)
from orchestrator.tracking_writer import (
    RunContent,
    find_one,
    is_own,
    tags_of_people,
    told_apart,
    trial_content,
    write_content,
    write_files,
)
from orchestrator.transfer_judging import TransferTable
from orchestrator.transfer_rows import transfer_data
from search_spaces.contracts import TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial


class MlflowTracker:
    """Keeps one sweep's runs in one experiment; every call may be repeated.

    In an experiment a sweep's name stands for one set of trials: the one whose verdicts were
    logged last. Verdicts of another set of that name, from before the sweep file was changed or
    of somebody else's sweep, are kept as they were, but tagged ``superseded=true`` and
    ``contiguous=false``; logging them again makes them the current ones.

    A trial has one run, and that tells of one attempt: of the store that was mirrored last.

    Not for several threads at once. Every method may raise a UserError: MLflow failed.

    Attributes:
        uri: The tracking URI, with its credentials.
        client: Connected.
        experiment_id: Of the experiment.
        parent_id: The sweep's run.
        sweep: Name of the sweep.
        num_done: Grows with every run that was written or found up to date, and with every page
            of answers: as long as it does, MLflow works.

    Args:
        uri: MLflow tracking URI.
        experiment: Name of the experiment; made when it is not there.
        sweep: Name of the sweep.
        sweep_hash: Names exactly this set of trials.
        timeout_s: How long the URI may take to answer.

    Raises:
        UserError: The URI does not answer, or is a folder, or the experiment was deleted.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        sweep: str,
        sweep_hash: str,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self.uri, self.num_done, self._timeout_s = uri, 0, timeout_s
        self.sweep, self._sweep_hash = sweep, sweep_hash
        self.client = open_client(uri, timeout_s)
        tags = {"kind": "sweep", "sweep": sweep, "sweep_hash": sweep_hash}
        with explained(uri):
            self.experiment_id = found_or_made_experiment(self.client, uri, experiment)
            condition = sweep_condition(sweep, sweep_hash)
            run = find_one(self.client, self.experiment_id, condition)
            run = run or self._made_parent(condition, f"sweep:{sweep}", tags)
        self.parent_id: str = run.info.run_id

    def check(self) -> None:
        """Raise a UserError when the URI does not answer."""
        open_client(self.uri, self._timeout_s)

    def mirror(self, trial: Trial, result: TrialResult, store: Store | None = None) -> str:
        """Write a trial's run unless it is there; return its run id.

        A run that tells of another attempt goes to MLflow's trash: its values cannot be changed.

        Args:
            trial: The trial.
            result: Its committed result.
            store: Where masks of finals and the lineage are copied from; None copies none.
        """
        content = trial_content(trial, result, self.sweep, self.parent_id)
        with explained(self.uri):
            condition = f"tags.trial_key = '{trial.key}' and tags.kind != '' and tags.sweep != ''"
            run = self._found_or_made(condition, content.name, content.tags)
            if run.data.tags.get("attempt", result.attempt) != result.attempt:
                run = self._in_place_of(run, content)
        is_whole = run.info.status == "FINISHED" and content.tags.items() <= run.data.tags.items()
        if not is_whole:
            self.write(run.info.run_id, content, trial, result, store)
        self.num_done += 1
        return str(run.info.run_id)

    def make_anew(self, old: Run, trial: Trial, result: TrialResult, store: Store) -> None:
        """Write a trial's run in place of an old one, which goes to MLflow's trash."""
        content = trial_content(trial, result, self.sweep, self.parent_id)
        with explained(self.uri):
            run_id = self._in_place_of(old, content).info.run_id
        self.write(run_id, content, trial, result, store)

    def write(
        self,
        run_id: str,
        content: RunContent,
        trial: Trial,
        result: TrialResult,
        store: Store | None,
    ) -> None:
        """Write all of a trial's run, whatever of it is there, and close it."""
        with explained(self.uri):
            write_content(self.client, run_id, content)
            if store is not None:
                write_files(self.client, run_id, trial, result, store)
            self.client.set_terminated(run_id, "FINISHED")

    def drop_copies(self, keys: Collection[str]) -> None:
        """Move runs that a lost answer or a late request has made twice to MLflow's trash.

        Args:
            keys: Of the trials that are looked at.
        """
        condition = f"tags.trial_key != '' and tags.sweep = {quoted(self.sweep)}"
        by_key: dict[str, list[Run]] = {}
        with explained(self.uri):
            found = search_each(self.client, self.experiment_id, condition, on_page=self._count)
            for run in found:
                key = run.data.tags["trial_key"]
                if is_own(run) and key in keys:  # of its content nothing is kept: there are many
                    by_key.setdefault(key, []).append(Run(run.info, RunData()))
            for runs in by_key.values():
                for copy in told_apart(runs)[1]:
                    self.client.delete_run(copy.info.run_id)

    def log_verdicts(
        self,
        judged: Iterable[Judged],
        rule: str,
        replicate: str,
        transfers: Sequence[TransferTable] = (),
    ) -> None:
        """Make the sweep's verdict runs exactly these.

        There is one per (model, task, method, level, rule), and one per cell of a transfer table.

        What no longer holds is withdrawn before anything is written: whoever looks in between, or
        after a kill, finds too few verdicts and no wrong one.

        Args:
            judged: Curves on the select and the report split.
            rule: The sweep's own rule, tagged ``default_rule``.
            replicate: What a replicate is, so which quantity is estimated (method rule 2).
            transfers: Judged tables on both splits; kept whole as ``transfer.json`` as well.
        """
        wanted = self._wanted_verdicts(judged, rule, replicate, transfers)
        ids = self.client, self.experiment_id, self.sweep
        with explained(self.uri):
            plan = plan_verdicts(*ids, wanted, self._count)
            withdraw(self.client, plan)
            self.num_done += plan.num_kept
            for verdict in plan.missing:
                write_verdict(self.client, self.experiment_id, verdict)
                self.num_done += 1
            if plan.missing:  # another process may have written the same ones meanwhile
                drop_copies(*ids, wanted, self._count)
        if transfers:
            self.log_transfers(transfers)

    def log_transfers(self, transfers: Sequence[TransferTable]) -> None:
        """Keep judged tables whole, as an artifact of the sweep's run."""
        with explained(self.uri):
            self.client.log_dict(self.parent_id, transfer_data(transfers), TRANSFER_FILE)

    def plan_verdicts(
        self,
        judged: Iterable[Judged],
        rule: str,
        replicate: str,
        transfers: Sequence[TransferTable] = (),
    ) -> VerdictPlan:
        """Return what ``log_verdicts`` would do; nothing is written."""
        wanted = self._wanted_verdicts(judged, rule, replicate, transfers)
        with explained(self.uri):
            return plan_verdicts(self.client, self.experiment_id, self.sweep, wanted, self._count)

    def catch_up(self, trials: Iterable[Trial], store: Store) -> int:
        """Mirror every committed trial; return how many there are."""
        num_mirrored = 0
        for trial in trials:
            result = store.read(trial.key)
            if result is not None:
                self.mirror(trial, result, store)
                num_mirrored += 1
        return num_mirrored

    def log_report(self, paths: Sequence[Path]) -> None:
        """Keep exactly these files, a report's page and figures, as artifacts of the sweep's run.

        Args:
            paths: The files.
        """
        with explained(self.uri):
            for path in paths:
                self.client.log_artifact(self.parent_id, str(path), REPORT_FOLDER)

    def register(self, candidates: Iterable[Candidate]) -> None:
        """Make the sweep's registered tickets exactly these; see TicketRegistry."""
        ids = self.experiment_id, self.parent_id
        with explained(self.uri):
            registry = TicketRegistry(self.client, self.uri, *ids, self.sweep)
            registry.update(candidates, self._count)

    def finish(self, succeeded: bool) -> None:
        """Close the sweep's parent run."""
        with explained(self.uri):
            self.client.set_terminated(self.parent_id, "FINISHED" if succeeded else "FAILED")

    def _wanted_verdicts(
        self,
        judged: Iterable[Judged],
        rule: str,
        replicate: str,
        transfers: Sequence[TransferTable],
    ) -> dict[str, Verdict]:
        common = {"default_rule": rule, "replicate": replicate}
        common["mlflow.parentRunId"] = self.parent_id
        return wanted_verdicts(self.sweep, self._sweep_hash, common, judged, transfers)

    def _made_parent(self, condition: str, name: str, tags: dict[str, str]) -> Run:
        """Make the sweep's run; where another process makes one at once, both use the first.

        Only this process's own goes to the trash: the other one may be in use.
        """
        own = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
        first, _ = told_apart(self.client.search_runs([self.experiment_id], condition))
        if first is None or first.info.run_id == own.info.run_id:
            return own
        self.client.delete_run(own.info.run_id)
        return first

    def _count(self) -> None:
        self.num_done += 1

    def _in_place_of(self, old: Run, content: RunContent) -> Run:
        """Return a new run; what people wrote on the old one is on the new one from its start."""
        tags = {**tags_of_people(old, content.tags), **content.tags}
        new = self.client.create_run(self.experiment_id, tags=tags, run_name=content.name)
        if old.info.lifecycle_stage == "active":
            self.client.delete_run(old.info.run_id)
        return new

    def _found_or_made(self, condition: str, name: str, tags: Mapping[str, str]) -> Run:
        # The naming tags are there from the start, so that a kill leaves a run that is found again.
        found = find_one(self.client, self.experiment_id, condition)
        return found or self.client.create_run(self.experiment_id, tags=dict(tags), run_name=name)


def sweep_condition(sweep: str, sweep_hash: str) -> str:
    """Return what a sweep's own run is found by."""
    tags = {"kind": "sweep", "sweep": sweep, "sweep_hash": sweep_hash}
    return " and ".join(f"tags.{tag} = {quoted(value)}" for tag, value in tags.items())


def experiment_of(spec: SweepSpec) -> str:
    """Return the name of a sweep's experiment."""
    return spec.tracking.experiment or spec.name
