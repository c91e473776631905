"""Write a trial's run in few calls, each of which may be repeated: nothing is there twice."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from orchestrator.store import Store
from orchestrator.tracking_rows import (
    RARE_TAGS,
    ancestors,
    lineage_row,
    mask_file,
    mask_info,
    require_same,
    trial_metrics,
    trial_params,
    trial_tags,
)
from search_spaces.contracts import ArtifactInfo, TrialResult
from search_spaces.trial import Trial

LINEAGE_FILE = "lineage.json"
MASK_FOLDER = "masks"
LOSS = "loss"
OWN_TAGS = frozenset({"trial_key", "kind", "sweep"})  # a run with all of these is a mirror's
_MOST_ENTITIES = 1000  # of one log_batch
_MOST_COPIES = 50
_LONGEST_TAG = 5000
_NOTE = "mlflow.note.content"  # what people write about a run in MLflow's own pages


@dataclass(frozen=True)
class RunContent:
    """What the run of a trial says, but for its files.

    Attributes:
        name: For people.
        params: What decided the result.
        metrics: Values and losses. All have the time at which the trial began, so that a point
            that is written again is the same point.
        tags: What it is found and filtered by.
        data: The data it was trained on.
    """

    name: str
    params: Mapping[str, str]
    metrics: Sequence[Metric]
    tags: Mapping[str, str]
    data: DatasetInput


def trial_content(trial: Trial, result: TrialResult, sweep: str, parent_id: str) -> RunContent:
    """Return what a trial's run says.

    Args:
        trial: The trial.
        result: Its committed result.
        sweep: Name of the sweep.
        parent_id: The sweep's run.
    """
    tags = {**trial_tags(trial, result), "sweep": sweep, "trial_key": trial.key}
    tags["mlflow.parentRunId"] = parent_id
    time_ms = round(datetime.fromisoformat(result.started_at).timestamp() * 1000)
    values = trial_metrics(trial, result).items()
    return RunContent(
        name=trial.main_role.label,
        params=trial_params(trial.spec),
        metrics=(
            *(Metric(name, value, time_ms, 0) for name, value in values),
            *(Metric(LOSS, value, time_ms, step) for step, value in result.losses),
        ),
        tags=fitted(tags),
        data=_data(trial),
    )


def fitted(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags cut to what every MLflow keeps; of a list with commas whole entries stay."""
    return {name: _fitted(value) for name, value in tags.items()}


def as_kept(value: float) -> float | None:
    """Return a metric as MLflow's databases keep it, for comparing: no infinity; None is NaN."""
    if math.isnan(value):
        return None
    return max(-sys.float_info.max, min(sys.float_info.max, value))


def tags_of_people(run: Run, ours: Iterable[str]) -> dict[str, str]:
    """Return the tags, and the note, that people gave a run.

    Args:
        run: The run.
        ours: Names of the tags that it has from the mirror.
    """
    known = {*ours, *RARE_TAGS}
    return {
        name: value
        for name, value in run.data.tags.items()
        if name not in known and (name == _NOTE or not name.startswith("mlflow."))
    }


def write_content(client: MlflowClient, run_id: str, content: RunContent) -> None:
    """Write all that a run says; what is there already stays one entry."""
    log_rows(client, run_id, content.metrics, content.params, content.tags)
    client.log_inputs(run_id, [content.data])


def log_rows(
    client: MlflowClient,
    run_id: str,
    metrics: Sequence[Metric],
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    """Write values, params and tags in as few calls as MLflow's limits allow.

    Args:
        client: Connected.
        run_id: The run.
        metrics: Any number.
        params: At most 100, as MLflow has it.
        tags: At most 100.
    """
    room = _MOST_ENTITIES - len(params) - len(tags)
    client.log_batch(
        run_id,
        metrics=metrics[:room],
        params=[Param(name, value) for name, value in params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    for start in range(room, len(metrics), _MOST_ENTITIES):
        client.log_batch(run_id, metrics=metrics[start : start + _MOST_ENTITIES])


def write_files(
    client: MlflowClient, run_id: str, trial: Trial, result: TrialResult, store: Store
) -> None:
    """Copy a trial's lineage, and the mask of a final trial, out of the store.

    A lineage that has lost ancestors in the store replaces none.

    Raises:
        UserError: The mask is not the committed one.
    """
    lineage, is_whole = _lineage(trial, result, store)
    if is_whole or LINEAGE_FILE not in {one.path for one in client.list_artifacts(run_id)}:
        log_bytes(client, run_id, LINEAGE_FILE, lineage)
    info, mask = mask_info(trial, store), mask_file(trial, result, store)
    if info is not None and mask is not None:
        require_same(trial, info, mask[1])
        log_bytes(client, run_id, f"{MASK_FOLDER}/{info.name}", mask[1])


def wanted_files(trial: Trial, result: TrialResult, store: Store) -> dict[str, ArtifactInfo]:
    """Return size and hash of every file that ``write_files`` keeps with a run, by path.

    Files of which the store has lost something are not among them: those in MLflow may be whole.
    """
    mask = mask_info(trial, store)
    files = {f"{MASK_FOLDER}/{mask.name}": mask} if mask else {}
    data, is_whole = _lineage(trial, result, store)
    if is_whole:
        digest = hashlib.sha256(data).hexdigest()
        files[LINEAGE_FILE] = ArtifactInfo(name=LINEAGE_FILE, sha256=digest, num_bytes=len(data))
    return files


def log_bytes(client: MlflowClient, run_id: str, path: str, data: bytes) -> None:
    """Keep a file with a run; one of that name is replaced."""
    folder, _, name = path.rpartition("/")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / name
        file.write_bytes(data)
        client.log_artifact(run_id, str(file), folder or None)


def find_one(client: MlflowClient, experiment_id: str, condition: str) -> Run | None:
    """Return the run of a mirror that fulfils a condition; copies of it go to MLflow's trash.

    A request whose answer got lost, or that came through late, may have made one run twice.
    """
    found = client.search_runs([experiment_id], condition, max_results=_MOST_COPIES)
    kept, copies = told_apart(found)
    for run in copies:
        client.delete_run(run.info.run_id)
    return kept


def told_apart(runs: Iterable[Run]) -> tuple[Run | None, list[Run]]:
    """Return which of a trial's runs counts, and its copies: a finished one, else the first."""
    ours = sorted(runs, key=lambda run: (run.info.status != "FINISHED", *_beginning(run)))
    return (ours[0], ours[1:]) if ours else (None, [])


def is_own(run: Run) -> bool:
    """Whether a mirror made a trial's run; people may tag runs of theirs with a trial's key."""
    return set(run.data.tags) >= OWN_TAGS


def _beginning(run: Run) -> tuple[int, str]:
    return run.info.start_time, run.info.run_id


def _fitted(value: str) -> str:
    if len(value) <= _LONGEST_TAG:
        return value
    start = value[: _LONGEST_TAG + 1]
    return start.rpartition(",")[0] or start[:-1]


def _lineage(trial: Trial, result: TrialResult, store: Store) -> tuple[bytes, bool]:
    """Return the file, and whether the store has all of the trial's ancestors."""
    chain = list(ancestors(trial.spec, result, store))
    rows = [lineage_row(*one) for one in chain]
    return json.dumps({"lineage": rows}, indent=2).encode(), chain[-1][0].mask_parent is None


def _data(trial: Trial) -> DatasetInput:
    digest = trial.spec.task.data_sha256
    # MLflow's own column for digests holds 36 characters; the source has the whole one.
    source = f'{{"data_sha256": "{digest}"}}'
    data = Dataset(trial.main_role.task, digest[:36], "meta", source)
    return DatasetInput(data, [InputTag("mlflow.data.context", "training")])
