"""Mirror a sweep to MLflow: one run per trial and per verdict, found again before it is made."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from orchestrator.judging import Judged
from orchestrator.registry import Candidate, TicketRegistry
from orchestrator.store import Store
from orchestrator.tracking_client import (
    ANSWER_TIMEOUT_S,
    explained,
    found_or_made_experiment,
    open_client,
    quoted,
    search_all,
)
from orchestrator.tracking_rows import (
    lineage_rows,
    mask_file,
    trial_metrics,
    trial_params,
    trial_tags,
    verdict_rows,
)
from orchestrator.tracking_transfer import TRANSFER_VERDICT, transfer_verdicts
from orchestrator.transfer_judging import TransferTable
from orchestrator.transfer_rows import transfer_data
from search_spaces.canonical import content_key
from search_spaces.contracts import TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial

_BATCH = 900  # metrics of one log_batch; MLflow takes 1,000 entities in all
_LONGEST_TAG = 5000
_Verdict = tuple[str, dict[str, float], dict[str, str]]  # run name, metrics, tags


class MlflowTracker:
    """Keeps one sweep's runs in one experiment; every call may be repeated.

    In an experiment a sweep's name stands for one set of trials: the one whose verdicts were
    logged last. Verdicts of another set of that name, from before the sweep file was changed or
    of somebody else's sweep, are kept as they were, but tagged ``superseded=true`` and
    ``contiguous=false``; logging them again makes them the current ones.

    Not for several threads at once. Every method may raise a UserError: MLflow failed.

    Attributes:
        uri: The tracking URI, with its credentials.
        num_done: How many runs were written, or found up to date: it grows while MLflow works.

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
        self._sweep, self._sweep_hash = sweep, sweep_hash
        self._client = open_client(uri, timeout_s)
        tags = {"kind": "sweep", "sweep": sweep, "sweep_hash": sweep_hash}
        with explained(uri):
            self._experiment_id = found_or_made_experiment(self._client, uri, experiment)
            run = self._found_or_made(tags, f"sweep:{sweep}", tags)
        self._parent_id: str = run.info.run_id

    def check(self) -> None:
        """Raise a UserError when the URI does not answer."""
        open_client(self.uri, self._timeout_s)

    def mirror(self, trial: Trial, result: TrialResult, store: Store | None = None) -> str:
        """Write a trial's run unless it is there; return its run id.

        Args:
            trial: The trial.
            result: Its committed result.
            store: Where masks of finals and the lineage are copied from; None copies none.
        """
        tags = {**trial_tags(trial, result), "sweep": self._sweep}
        tags["mlflow.parentRunId"] = self._parent_id
        tags = {name: value[:_LONGEST_TAG] for name, value in tags.items()}
        with explained(self.uri):
            identity = {"trial_key": trial.key}
            run = self._found_or_made(identity, trial.main_role.label, tags)
        if run.info.status != "FINISHED" or not tags.items() <= run.data.tags.items():
            rows = list(lineage_rows(trial.spec, result, store)) if store else []
            mask = mask_file(trial, result, store) if store else None
            with explained(self.uri):
                self._write_trial(run, trial, result, tags)
                self._log_artifacts(run, rows, mask)
                self._client.set_terminated(run.info.run_id, "FINISHED")
        self.num_done += 1
        return str(run.info.run_id)

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
        common = {"sweep": self._sweep, "sweep_hash": self._sweep_hash, "superseded": "false"}
        common |= {"default_rule": rule, "replicate": replicate}
        common["mlflow.parentRunId"] = self._parent_id
        wanted: dict[str, _Verdict] = {}
        rows = [*verdict_rows(list(judged)), *transfer_verdicts(transfers)]
        for identity, name, metrics, tags in rows:
            key = content_key([self._sweep, self._sweep_hash, *identity])
            wanted[key] = name, metrics, {**tags, **common, "verdict_key": key}
        with explained(self.uri):
            kept = self._withdraw_others(wanted)
            self.num_done += len(kept)
            for key, verdict in wanted.items():
                if key not in kept:
                    self._write_verdict(*verdict)
                    self.num_done += 1
            if transfers:
                self._client.log_dict(self._parent_id, transfer_data(transfers), "transfer.json")

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
                self._client.log_artifact(self._parent_id, str(path), "report")

    def register(self, candidates: Iterable[Candidate]) -> None:
        """Make the sweep's registered tickets exactly these; see TicketRegistry."""
        ids = self._experiment_id, self._parent_id
        with explained(self.uri):
            registry = TicketRegistry(self._client, self.uri, *ids, self._sweep)
            registry.update(candidates, self._count)

    def finish(self, succeeded: bool) -> None:
        """Close the sweep's parent run."""
        with explained(self.uri):
            self._client.set_terminated(self._parent_id, "FINISHED" if succeeded else "FAILED")

    def _count(self) -> None:
        self.num_done += 1

    def _found_or_made(
        self, identity: Mapping[str, str], name: str, tags: Mapping[str, str]
    ) -> Run:
        conditions = [f"tags.{tag} = {quoted(value)}" for tag, value in identity.items()]
        found = self._client.search_runs(
            [self._experiment_id], " and ".join(conditions), max_results=1
        )
        if found:
            return found[0]
        # The naming tags are there from the start, so that a kill leaves a run that is found again.
        tags = {**tags, **identity}
        return self._client.create_run(self._experiment_id, tags=tags, run_name=name)

    def _withdraw_others(self, wanted: Mapping[str, _Verdict]) -> set[str]:
        """Withdraw the name's verdict runs that are not wanted as they are; return whose are."""
        kept: set[str] = set()
        for run in self._verdict_runs():
            key = run.data.tags.get("verdict_key", "")
            if key in wanted and key not in kept and _holds(run, wanted[key]):
                kept.add(key)
            elif key in wanted:  # MLflow cannot take a metric away, so the run goes
                self._client.delete_run(run.info.run_id)
            elif run.data.tags.get("superseded") != "true":
                tags = {"contiguous": "false"} if "contiguous" in run.data.tags else {}
                self._log(run, {}, _now_ms(), {**tags, "superseded": "true"})
        return kept

    def _verdict_runs(self) -> list[Run]:
        """Return the verdict runs of the sweep's name, of every set of trials."""
        sweep = f"tags.sweep = {quoted(self._sweep)}"
        asked = [f"tags.kind = '{kind}' and {sweep}" for kind in ("verdict", TRANSFER_VERDICT)]
        return [run for one in asked for run in search_all(self._client, self._experiment_id, one)]

    def _write_verdict(self, name: str, metrics: Mapping[str, float], tags: dict[str, str]) -> None:
        run = self._client.create_run(self._experiment_id, tags=tags, run_name=name)
        self._log(run, metrics, _now_ms(), {})
        self._client.set_terminated(run.info.run_id, "FINISHED")

    def _write_trial(
        self, run: Run, trial: Trial, result: TrialResult, tags: Mapping[str, str]
    ) -> None:
        time_ms = round(datetime.fromisoformat(result.started_at).timestamp() * 1000)
        self._log(run, trial_metrics(trial, result), time_ms, tags, trial_params(trial.spec))
        self._log_losses(run, result, time_ms)
        self._log_data(run, trial)

    def _log(
        self,
        run: Run,
        metrics: Mapping[str, float],
        time_ms: int,
        tags: Mapping[str, str],
        params: Mapping[str, str] | None = None,
    ) -> None:
        self._client.log_batch(
            run.info.run_id,
            metrics=[Metric(name, value, time_ms, 0) for name, value in metrics.items()],
            params=[Param(name, value) for name, value in (params or {}).items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )

    def _log_losses(self, run: Run, result: TrialResult, time_ms: int) -> None:
        # One time for all: what is logged twice is then one row, because nothing differs.
        losses = [Metric("loss", value, time_ms, step) for step, value in result.losses]
        for start in range(0, len(losses), _BATCH):
            self._client.log_batch(run.info.run_id, metrics=losses[start : start + _BATCH])

    def _log_data(self, run: Run, trial: Trial) -> None:
        digest = trial.spec.task.data_sha256
        # MLflow's own column for digests holds 36 characters; the source has the whole one.
        source = f'{{"data_sha256": "{digest}"}}'
        data = Dataset(trial.main_role.task, digest[:36], "meta", source)
        tags = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(run.info.run_id, [DatasetInput(data, tags)])

    def _log_artifacts(
        self, run: Run, rows: Sequence[Mapping[str, object]], mask: tuple[str, bytes] | None
    ) -> None:
        if rows:
            self._client.log_dict(run.info.run_id, {"lineage": rows}, "lineage.json")
        if mask is not None:
            name, data = mask
            with tempfile.TemporaryDirectory() as place:
                path = Path(place) / name
                path.write_bytes(data)
                self._client.log_artifact(run.info.run_id, str(path), "masks")


def experiment_of(spec: SweepSpec) -> str:
    """Return the name of a sweep's experiment."""
    return spec.tracking.experiment or spec.name


def _holds(run: Run, verdict: _Verdict) -> bool:
    """Whether a run is complete and says what a verdict says, and nothing of the past."""
    _, metrics, tags = verdict
    told = run.data.tags
    dropped = {name for name in told if name.startswith("beats.")} - tags.keys()
    is_same = tags.items() <= told.items() and not dropped and metrics == run.data.metrics
    return is_same and run.info.status == "FINISHED"


def _now_ms() -> int:
    return round(datetime.now().timestamp() * 1000)
