"""Mirror a sweep to MLflow: one run per trial and per verdict, found again before it is made."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from orchestrator.judging import Judged
from orchestrator.storage import Storage
from orchestrator.store import Store
from orchestrator.tracking_client import ANSWER_TIMEOUT_S, open_client, quoted
from orchestrator.tracking_rows import trial_metrics, trial_params, trial_tags, verdict_rows
from search_spaces.canonical import content_key
from search_spaces.contracts import ArtifactRef, TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial, TrialSpec

_BATCH = 900  # metrics of one log_batch; MLflow takes 1,000 entities in all
_LONGEST_TAG = 5000


class MlflowTracker:
    """Keeps one sweep's runs in one experiment; every call may be repeated.

    Not for several threads at once.

    Args:
        uri: MLflow tracking URI.
        experiment: Name of the experiment; made when it is not there.
        sweep: Name of the sweep.
        sweep_hash: Names exactly this set of trials.
        timeout_s: How long the URI may take to answer.

    Raises:
        UserError: The URI does not answer, or is a folder.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        sweep: str,
        sweep_hash: str,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self.uri, self._sweep, self._timeout_s = uri, sweep, timeout_s
        self._client = open_client(uri, timeout_s)
        self._experiment_id = _experiment_id(self._client, uri, experiment)
        tags = {"kind": "sweep", "sweep": sweep, "sweep_hash": sweep_hash}
        run, _ = self._found_or_made("sweep_hash", sweep_hash, f"sweep:{sweep}", tags)
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
        label = trial.main_role.label
        run, is_new = self._found_or_made("trial_key", trial.key, label, tags)
        if not is_new and run.info.status == "FINISHED" and tags.items() <= run.data.tags.items():
            return str(run.info.run_id)
        time_ms = round(datetime.fromisoformat(result.started_at).timestamp() * 1000)
        self._log(run, trial_metrics(trial, result), time_ms, tags, trial_params(trial.spec))
        self._log_losses(run, result, time_ms)
        self._log_data(run, trial)
        if store is not None:
            self._log_artifacts(run, trial, result, store)
        self._client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)

    def log_verdicts(self, judged: Iterable[Judged], rule: str, replicate: str) -> None:
        """Write or renew a run for each (model, task, method, level, rule).

        Args:
            judged: Curves on the select and the report split.
            rule: The sweep's own rule, tagged ``default_rule``.
            replicate: What a replicate is, so which quantity is estimated (method rule 2).
        """
        for key, name, metrics, tags in verdict_rows(list(judged)):
            known = {**tags, "sweep": self._sweep, "default_rule": rule, "replicate": replicate}
            known["mlflow.parentRunId"] = self._parent_id
            digest = content_key([self._sweep, *key])
            run, is_new = self._found_or_made("verdict_key", digest, name, known)
            is_same = known.items() <= run.data.tags.items() and metrics == run.data.metrics
            if is_new or not is_same or run.info.status != "FINISHED":
                self._log(run, metrics, _now_ms(), known)
                self._client.set_terminated(run.info.run_id, "FINISHED")

    def catch_up(self, trials: Iterable[Trial], store: Store) -> int:
        """Mirror every committed trial; return how many there are."""
        num_mirrored = 0
        for trial in trials:
            result = store.read(trial.key)
            if result is not None:
                self.mirror(trial, result, store)
                num_mirrored += 1
        return num_mirrored

    def log_report(self, folder: Path) -> None:
        """Keep a report, its page and figures, as artifacts of the sweep's run."""
        self._client.log_artifacts(self._parent_id, str(folder), "report")

    def finish(self, succeeded: bool) -> None:
        """Close the sweep's parent run."""
        self._client.set_terminated(self._parent_id, "FINISHED" if succeeded else "FAILED")

    def _found_or_made(
        self, tag: str, value: str, name: str, tags: Mapping[str, str]
    ) -> tuple[Run, bool]:
        found = self._client.search_runs(
            [self._experiment_id], f"tags.{tag} = {quoted(value)}", max_results=1
        )
        if found:
            return found[0], False
        # The naming tag is there from the start, so that a kill leaves a run that is found again.
        made = self._client.create_run(
            self._experiment_id, tags={**tags, tag: value}, run_name=name
        )
        return made, True

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

    def _log_artifacts(self, run: Run, trial: Trial, result: TrialResult, store: Store) -> None:
        rows = list(lineage_rows(trial.spec, result, store))
        self._client.log_dict(run.info.run_id, {"lineage": rows}, "lineage.json")
        if trial.kind == "final" and (ref := _mask_of(trial, result, store)):
            folder, _, name = ref.uri.rpartition("/")
            data = Storage(folder).read(name)
            if data is not None:
                with tempfile.TemporaryDirectory() as place:
                    path = Path(place) / name
                    path.write_bytes(data)
                    self._client.log_artifact(run.info.run_id, str(path), "masks")


def lineage_rows(
    spec: TrialSpec, result: TrialResult | None, store: Store
) -> Iterator[dict[str, object]]:
    """Yield a trial and its mask's ancestors, back to the dense trial that was pruned first."""
    current: TrialSpec | None = spec
    while current is not None:
        mask = result.input_mask if result else None
        yield {
            "trial_key": current.key,
            "mask_sha256": mask.sha256 if mask else None,
            "num_removed": current.num_removed,
            "sparsity": current.num_removed / current.model.num_prunable,
        }
        parent = current.mask_parent
        record = store.record(parent.parent) if parent else None
        current, result = (record.spec, record.result) if record else (None, None)


def experiment_of(spec: SweepSpec) -> str:
    """Return the name of a sweep's experiment."""
    return spec.tracking.experiment or spec.name


def _mask_of(trial: Trial, result: TrialResult, store: Store) -> ArtifactRef | None:
    """Return the committed file of the mask that a trial trained under, if one is kept."""
    parent = trial.spec.mask_parent
    owner, names = trial.key, trial.outputs.artifacts
    if parent is not None:
        owner = parent.parent
        names = (f"mask-{parent.pruner}-{parent.num_removed}.arrow",)
    record = store.record(owner)
    kept = [name for name in names if record and name in record.attempts]
    return store.artifact(owner, kept[0]) if kept else None


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    place = None
    if uri.startswith("sqlite:///"):  # else files would lie below the current folder
        folder = Path(uri.removeprefix("sqlite:///").split("?")[0]).absolute().parent
        place = (folder / "mlartifacts" / content_key(name)[:10]).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=place))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # somebody else was quicker
        if found is None:
            raise
        return str(found.experiment_id)


def _now_ms() -> int:
    return round(datetime.now().timestamp() * 1000)
