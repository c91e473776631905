"""The verdict runs of a sweep in MLflow: which are wanted, which are there, which are past."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Run
from mlflow.exceptions import MlflowException

from orchestrator.judging import Judged
from orchestrator.tracking_client import quoted, search_all
from orchestrator.tracking_rows import NUMBERS, verdict_rows
from orchestrator.tracking_transfer import NUMBERS as OF_CELLS
from orchestrator.tracking_transfer import TRANSFER_VERDICT, transfer_verdicts
from orchestrator.tracking_writer import as_kept, fitted, log_rows, tags_of_people
from orchestrator.transfer_judging import TransferTable
from search_spaces.canonical import content_key

_OURS = frozenset({"sparsity", "num_removed", *NUMBERS, *OF_CELLS})  # metrics; others are people's
_PARENT = "mlflow.parentRunId"
_OUR_TAGS = ("beats.", "rule.")  # how names begin of which a verdict may have more or fewer


@dataclass(frozen=True)
class Verdict:
    """What one verdict run says."""

    name: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class VerdictPlan:
    """What has to be done so that the verdict runs are those of now.

    Attributes:
        num_kept: How many stay as they are.
        changed: Runs that say something else, or are unfinished or copies: they go.
        past: Runs of another set of trials: they are tagged as superseded.
        missing: What is written anew.
    """

    num_kept: int
    changed: Sequence[Run]
    past: Sequence[Run]
    missing: Sequence[Verdict]

    @property
    def has_work(self) -> bool:
        """Whether anything is to be written."""
        return bool(self.changed or self.past or self.missing)

    @property
    def is_superseded(self) -> bool:
        """Whether the verdicts are there, but those of another set of trials are current."""
        withdrawn = [run for run in self.changed if run.data.tags.get("superseded") == "true"]
        is_all = len(withdrawn) == len(self.changed) > 0
        return is_all and not self.num_kept and bool(self.past)


def wanted_verdicts(
    sweep: str,
    sweep_hash: str,
    tags: Mapping[str, str],
    judged: Iterable[Judged],
    transfers: Sequence[TransferTable],
) -> dict[str, Verdict]:
    """Return every verdict run that there should be, by its key.

    Args:
        sweep: Name of the sweep.
        sweep_hash: Names exactly its set of trials.
        tags: That all of them have.
        judged: Curves on the select and the report split.
        transfers: Judged tables on both splits.
    """
    common = {"sweep": sweep, "sweep_hash": sweep_hash, "superseded": "false", **tags}
    wanted: dict[str, Verdict] = {}
    for identity, name, metrics, own in [
        *verdict_rows(list(judged)),
        *transfer_verdicts(transfers),
    ]:
        key = content_key([sweep, sweep_hash, *identity])
        tags_of_one = fitted({**own, **common, "verdict_key": key})
        wanted[key] = Verdict(name, metrics, tags_of_one)
    return wanted


def plan_verdicts(
    client: MlflowClient,
    experiment_id: str,
    sweep: str,
    wanted: Mapping[str, Verdict],
    on_page: Callable[[], None] = lambda: None,
) -> VerdictPlan:
    """Compare the verdict runs of a sweep's name, of every set of trials, with the wanted ones."""
    kept, changed, past = set[str](), list[Run](), list[Run]()
    for run in _verdict_runs(client, experiment_id, sweep, on_page):
        key = run.data.tags.get("verdict_key", "")
        if key in wanted and key not in kept and _holds(run, wanted[key]):
            kept.add(key)
        elif key in wanted:
            changed.append(run)
        elif run.data.tags.get("superseded") != "true":
            past.append(run)
    words = {run.data.tags["verdict_key"]: _words(run) for run in changed}  # the newest's stay
    missing = [
        replace(verdict, tags={**words.get(key, {}), **verdict.tags})
        for key, verdict in wanted.items()
        if key not in kept
    ]
    return VerdictPlan(len(kept), changed, past, missing)


def withdraw(client: MlflowClient, plan: VerdictPlan) -> None:
    """Take back what no longer holds."""
    for run in plan.changed:  # MLflow cannot take a metric away, so the run goes
        delete_once(client, run.info.run_id)
    for run in plan.past:
        tags = {"contiguous": "false"} if "contiguous" in run.data.tags else {}
        log_rows(client, run.info.run_id, [], {}, {**tags, "superseded": "true"})


def drop_copies(
    client: MlflowClient,
    experiment_id: str,
    sweep: str,
    wanted: Mapping[str, Verdict],
    on_page: Callable[[], None] = lambda: None,
) -> None:
    """Withdraw verdict runs that two processes have written at once, all but the first of each.

    To be called after writing. Runs that are not finished are left alone: whoever writes them
    looks too, when they are whole. All processes keep the same run, so none is lost.
    """
    seen = set[str]()
    kinds = sorted({verdict.tags["kind"] for verdict in wanted.values()})
    for run in _verdict_runs(client, experiment_id, sweep, on_page, kinds):
        key = run.data.tags.get("verdict_key", "")
        if key not in wanted or not _says(run, wanted[key]):
            continue
        if key in seen:
            delete_once(client, run.info.run_id)
        seen.add(key)


def delete_once(client: MlflowClient, run_id: str) -> None:
    """Move a run to MLflow's trash, unless another process has done so meanwhile."""
    try:
        client.delete_run(run_id)
    except MlflowException:
        if client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE:
            raise


def write_verdict(client: MlflowClient, experiment_id: str, verdict: Verdict) -> None:
    """Make a verdict's run."""
    tags = dict(verdict.tags)
    run_id = client.create_run(experiment_id, tags=tags, run_name=verdict.name).info.run_id
    now_ms = round(datetime.now().timestamp() * 1000)
    metrics = [Metric(name, value, now_ms, 0) for name, value in verdict.metrics.items()]
    log_rows(client, run_id, metrics, {}, {})
    client.set_terminated(run_id, "FINISHED")


def _verdict_runs(
    client: MlflowClient,
    experiment_id: str,
    sweep: str,
    on_page: Callable[[], None],
    kinds: Sequence[str] = ("verdict", TRANSFER_VERDICT),
) -> list[Run]:
    """Return the verdict runs of a sweep's name, oldest first."""
    name = f"tags.sweep = {quoted(sweep)}"
    asked = [f"tags.kind = '{kind}' and {name}" for kind in kinds]
    runs = [run for one in asked for run in search_all(client, experiment_id, one, on_page=on_page)]
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def _words(run: Run) -> dict[str, str]:
    """Return the tags that people gave a verdict's run."""
    tags = run.data.tags
    ours = {name for name in tags if name.startswith(_OUR_TAGS)}
    return tags_of_people(run, ours)


def _holds(run: Run, verdict: Verdict) -> bool:
    """Whether a run is complete and says what a verdict says, and nothing of the past."""
    told = run.data.tags
    dropped = {name for name in told if name.startswith("beats.")} - verdict.tags.keys()
    is_same = verdict.tags.items() <= told.items() and not dropped
    wanted = {name: as_kept(value) for name, value in verdict.metrics.items()}
    there = {name: as_kept(value) for name, value in run.data.metrics.items() if _is_ours(name)}
    return is_same and wanted == there and run.info.status == "FINISHED"


def _says(run: Run, verdict: Verdict) -> bool:
    """Whether a run holds but for its parent, of which two processes may have made two."""
    parent = {name: run.data.tags[name] for name in (_PARENT,) if name in run.data.tags}
    return _holds(run, replace(verdict, tags={**verdict.tags, **parent}))


def _is_ours(metric: str) -> bool:
    return metric.startswith("over.") or metric.removeprefix("report.") in _OURS
