"""What a trial's run in MLflow lacks, or says otherwise than the store."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException

from orchestrator.tracking_client import first_line
from orchestrator.tracking_writer import LOSS, RunContent, as_kept
from search_spaces.contracts import ArtifactInfo

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
    files: Mapping[str, ArtifactInfo],
    ignored: Collection[str] = (),
    reads_files: bool = True,
) -> list[Difference]:
    """Compare a run with what it should say; what people added to it is theirs.

    Args:
        client: Connected.
        run: The run, active or deleted.
        content: What it should say.
        files: Every file that it should have, by path.
        ignored: Tags that may say anything.
        reads_files: Whether a file of the right size is read, and its content compared.
    """
    found = [*_tags(run, content, ignored), *_params(run, content), *_metrics(run, content)]
    found += _losses(client, run, content)
    if run.info.status != "FINISHED":
        found.append(Difference(f"its status is {run.info.status}, not FINISHED"))
    wanted = content.data.dataset
    there = {(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs}
    if (wanted.name, wanted.digest) not in there:
        found.append(Difference(f"its data set {wanted.name} is not named"))
    return [*found, *_files(client, run, files, reads_files)]


def is_at_hand(place: str) -> bool:
    """Whether the files of an artifact location lie in a folder, where reading costs little."""
    return urlsplit(place).scheme in ("", "file")


def _tags(run: Run, content: RunContent, ignored: Collection[str]) -> Iterator[Difference]:
    for name, value in content.tags.items():
        told = run.data.tags.get(name)
        if name not in ignored and told != value:
            is_other = name == "attempt" and told is not None  # and so are the values
            yield Difference(_said("tag", name, told, value), is_other)


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
        if told is None or as_kept(told) != as_kept(metric.value):
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


def _files(
    client: MlflowClient, run: Run, files: Mapping[str, ArtifactInfo], reads: bool
) -> Iterator[Difference]:
    folders = {path.rpartition("/")[0] for path in files}
    there = {
        item.path: item.file_size
        for folder in folders
        for item in client.list_artifacts(run.info.run_id, folder or None)
    }
    for path, wanted in files.items():
        if path not in there:
            yield Difference(f"file {path} is missing")
        elif there[path] != wanted.num_bytes:
            yield Difference(f"file {path} has {there[path]} bytes, not {wanted.num_bytes}")
        elif reads and (problem := _content_problem(client, run, path, wanted.sha256)):
            yield Difference(f"file {path} {problem}")


def _content_problem(client: MlflowClient, run: Run, path: str, sha256: str) -> str:
    """Return what is wrong with a file's content; "" where nothing is."""
    with tempfile.TemporaryDirectory() as place:
        try:
            data = Path(client.download_artifacts(run.info.run_id, path, place)).read_bytes()
        except (MlflowException, OSError) as error:  # it is written anew
            return f"cannot be read: {first_line(error)}"
    return "" if hashlib.sha256(data).hexdigest() == sha256 else "has another content"


def _point(metric: Metric) -> tuple[int, float | None, int]:
    return metric.step, as_kept(metric.value), metric.timestamp


def _said(kind: str, name: str, told: object, wanted: object) -> str:
    if told is None:
        return f"{kind} {name} is missing"
    return f"{kind} {name} is {_shown(told)}, not {_shown(wanted)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
