"""The verdict runs of a sweep in MLflow: which are wanted, which are there, which are past."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from orchestrator.judging import Judged
from orchestrator.tracking_client import quoted, search_all
from orchestrator.tracking_rows import verdict_rows
from orchestrator.tracking_transfer import TRANSFER_VERDICT, transfer_verdicts
from orchestrator.tracking_writer import log_rows
from orchestrator.transfer_judging import TransferTable
from search_spaces.canonical import content_key


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
        wanted[key] = Verdict(name, metrics, {**own, **common, "verdict_key": key})
    return wanted


def plan_verdicts(
    client: MlflowClient, experiment_id: str, sweep: str, wanted: Mapping[str, Verdict]
) -> VerdictPlan:
    """Compare the verdict runs of a sweep's name, of every set of trials, with the wanted ones."""
    kept, changed, past = set[str](), list[Run](), list[Run]()
    for run in _verdict_runs(client, experiment_id, sweep):
        key = run.data.tags.get("verdict_key", "")
        if key in wanted and key not in kept and _holds(run, wanted[key]):
            kept.add(key)
        elif key in wanted:
            changed.append(run)
        elif run.data.tags.get("superseded") != "true":
            past.append(run)
    missing = [verdict for key, verdict in wanted.items() if key not in kept]
    return VerdictPlan(len(kept), changed, past, missing)


def withdraw(client: MlflowClient, plan: VerdictPlan) -> None:
    """Take back what no longer holds."""
    for run in plan.changed:  # MLflow cannot take a metric away, so the run goes
        client.delete_run(run.info.run_id)
    for run in plan.past:
        tags = {"contiguous": "false"} if "contiguous" in run.data.tags else {}
        log_rows(client, run.info.run_id, [], {}, {**tags, "superseded": "true"})


def write_verdict(client: MlflowClient, experiment_id: str, verdict: Verdict) -> None:
    """Make a verdict's run."""
    tags = dict(verdict.tags)
    run_id = client.create_run(experiment_id, tags=tags, run_name=verdict.name).info.run_id
    now_ms = round(datetime.now().timestamp() * 1000)
    metrics = [Metric(name, value, now_ms, 0) for name, value in verdict.metrics.items()]
    log_rows(client, run_id, metrics, {}, {})
    client.set_terminated(run_id, "FINISHED")


def _verdict_runs(client: MlflowClient, experiment_id: str, sweep: str) -> list[Run]:
    name = f"tags.sweep = {quoted(sweep)}"
    asked = [f"tags.kind = '{kind}' and {name}" for kind in ("verdict", TRANSFER_VERDICT)]
    return [run for one in asked for run in search_all(client, experiment_id, one)]


def _holds(run: Run, verdict: Verdict) -> bool:
    """Whether a run is complete and says what a verdict says, and nothing of the past."""
    told = run.data.tags
    dropped = {name for name in told if name.startswith("beats.")} - verdict.tags.keys()
    is_same = verdict.tags.items() <= told.items() and not dropped
    return is_same and verdict.metrics == run.data.metrics and run.info.status == "FINISHED"
