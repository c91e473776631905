"""What a trial's run in MLflow lacks, or says otherwise than the store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from orchestrator.tracking_writer import LOSS, RunContent

# What depends on a sweep that a trial belongs to; a trial of several has those of one.
OF_ONE_SWEEP = frozenset(
    {
        "sweep",
        "mlflow.parentRunId",
        "kind",
        "roles",
        "method",
        "task",
        "model",
        "seed",
        "source_task",
        "parents",
    }
)
_SHOWN = 60  # characters of a value


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be.

    Attributes:
        text: For people.
        is_final: MLflow cannot change it, so the run has to be made anew.
    """

    text: str
    is_final: bool = False


def differences(
    client: MlflowClient,
    run: Run,
    content: RunContent,
    files: Mapping[str, int],
    ignored: Collection[str] = (),
) -> list[Difference]:
    """Compare a run with what it should say; what people added to it is theirs.

    Args:
        client: Connected.
        run: The run, active or deleted.
        content: What it should say.
        files: Size in bytes of every file that it should have.
        ignored: Tags that may say anything.
    """
    found = [*_tags(run, content, ignored), *_params(run, content), *_metrics(run, content)]
    found += _losses(client, run, content)
    if run.info.status != "FINISHED":
        found.append(Difference(f"its status is {run.info.status}, not FINISHED"))
    wanted = content.data.dataset
    there = {(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs}
    if (wanted.name, wanted.digest) not in there:
        found.append(Difference(f"its data set {wanted.name} is not named"))
    return [*found, *_files(client, run, files)]


def _tags(run: Run, content: RunContent, ignored: Collection[str]) -> Iterator[Difference]:
    for name, value in content.tags.items():
        told = run.data.tags.get(name)
        if name not in ignored and told != value:
            yield Difference(_said("tag", name, told, value))


def _params(run: Run, content: RunContent) -> Iterator[Difference]:
    for name, value in content.params.items():
        told = run.data.params.get(name)
        if told != value:
            yield Difference(_said("param", name, told, value), is_final=told is not None)


def _metrics(run: Run, content: RunContent) -> Iterator[Difference]:
    for metric in content.metrics:
        if metric.key == LOSS:
            continue
        told = run.data.metrics.get(metric.key)
        if told != metric.value:
            text = _said("metric", metric.key, told, metric.value)
            yield Difference(text, is_final=told is not None)


def _losses(client: MlflowClient, run: Run, content: RunContent) -> Iterator[Difference]:
    """Compare the curve point by point: a hand may have added some."""
    wanted = {_point(metric) for metric in content.metrics if metric.key == LOSS}
    if not wanted and LOSS not in run.data.metrics:
        return
    there = {_point(metric) for metric in client.get_metric_history(run.info.run_id, LOSS)}
    if num := len(there - wanted):
        yield Difference(f"metric {LOSS} has {num} point(s) that are not the trial's", True)
    if num := len(wanted - there):
        yield Difference(f"metric {LOSS} lacks {num} of {len(wanted)} points")


def _files(client: MlflowClient, run: Run, files: Mapping[str, int]) -> Iterator[Difference]:
    folders = {path.rpartition("/")[0] for path in files}
    there = {
        item.path: item.file_size
        for folder in folders
        for item in client.list_artifacts(run.info.run_id, folder or None)
    }
    for path, num_bytes in files.items():
        if path not in there:
            yield Difference(f"file {path} is missing")
        elif there[path] != num_bytes:
            yield Difference(f"file {path} has {there[path]} bytes, not {num_bytes}")


def _point(metric: Metric) -> tuple[int, float, int]:
    return metric.step, metric.value, metric.timestamp


def _said(kind: str, name: str, told: object, wanted: object) -> str:
    if told is None:
        return f"{kind} {name} is missing"
    return f"{kind} {name} is {_shown(told)}, not {_shown(wanted)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
