"""Seconds of writing values to an MLflow server: one request each, and in the mirror's batches."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

from benchmarks.measure import OURS, Case, Goal, Report, Sample, interleave, timed
from orchestrator.tracking_client import open_client
from orchestrator.tracking_writer import LOSS, log_rows

ONE_BY_ONE = "one by one"
GOAL = Goal("wall_s", 50.0, ONE_BY_ONE)
_START_PATIENCE_S = 180.0
_TIME_MS = 1_000
# As many as a trial's run has of each.
_PARAMS = {f"recipe.field{index}": str(index) for index in range(40)}
_TAGS = {f"tag{index}": str(index) for index in range(20)}
_VALUES = 20
_Write = Callable[[MlflowClient, str, list[Metric]], None]


@dataclass(frozen=True)
class Size:
    """How much is measured: points of the loss curve, and rounds at each number."""

    num_rounds: dict[int, int]


FULL = Size({200: 5})
QUICK = Size({200: 1})
SMOKE = Size({5: 1})


def run(smoke: bool, quick: bool = False) -> Report:
    """Measure against a server of its own."""
    size = SMOKE if smoke else QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as uri:
        client = open_client(uri, timeout_s=60)
        experiment_id = client.create_experiment("rows")
        cases = tuple(
            _case(client, experiment_id, num_losses, num_rounds)
            for num_losses, num_rounds in size.num_rounds.items()
        )
    return Report(
        variants={
            ONE_BY_ONE: "MlflowClient.log_metric, log_param and set_tag, a request for each row, "
            "as the functions mlflow.log_metric, log_param and set_tag do it",
            OURS: "log_rows of `orchestrator/tracking_writer.py`: up to 1,000 rows a request",
        },
        settings={
            "server": "`mlflow server`, one worker, SQLite, on this machine",
            "rows": f"{len(_PARAMS)} params, {len(_TAGS)} tags, {_VALUES} values and a loss curve",
            "runs": "a new one for each measurement; making and ending it is not measured",
            "rounds": ", ".join(f"{n} at {p:,} losses" for p, n in size.num_rounds.items()),
        },
        cases=cases,
    )


def _case(client: MlflowClient, experiment_id: str, num_losses: int, num_rounds: int) -> Case:
    values = [Metric(f"value{index}", 0.5, _TIME_MS, 0) for index in range(_VALUES)]
    losses = [Metric(LOSS, 1 / (step + 1), _TIME_MS, step) for step in range(num_losses)]
    rows = [*values, *losses]
    variants: dict[str, Callable[[int], Sample]] = {
        ONE_BY_ONE: partial(_sample, client, experiment_id, rows, _one_by_one),
        OURS: partial(_sample, client, experiment_id, rows, _in_batches),
    }
    _sample(client, experiment_id, values, _one_by_one, 0)  # a warm-up for both
    _sample(client, experiment_id, rows, _in_batches, 0)
    samples = interleave(variants, num_rounds, num_warmups=0)
    num_rows = len(rows) + len(_PARAMS) + len(_TAGS)
    own, theirs = samples[OURS], samples[ONE_BY_ONE]
    rates = [
        f"{name} {num_rows * len(of) / sum(one['wall_s'] for one in of):,.0f} rows/s"
        for name, of in ((ONE_BY_ONE, theirs), (OURS, own))
    ]
    facts = (
        f"{num_rows:,} rows a run: {', '.join(rates)}.",
        "After each measurement the run was read back, and held exactly these rows.",
    )
    return Case(f"{num_losses:,} losses", samples, facts, (GOAL,))


def _sample(
    client: MlflowClient, experiment_id: str, rows: list[Metric], write: _Write, _round: int
) -> Sample:
    run_id: str = client.create_run(experiment_id).info.run_id
    _, seconds = timed(partial(write, client, run_id, rows))
    _check(client, run_id, rows)
    return {"wall_s": seconds["wall_s"]}


def _one_by_one(client: MlflowClient, run_id: str, rows: list[Metric]) -> None:
    for name, value in _PARAMS.items():
        client.log_param(run_id, name, value)
    for name, value in _TAGS.items():
        client.set_tag(run_id, name, value)
    for row in rows:
        client.log_metric(run_id, row.key, row.value, row.timestamp, row.step)


def _in_batches(client: MlflowClient, run_id: str, rows: list[Metric]) -> None:
    log_rows(client, run_id, rows, _PARAMS, _TAGS)


def _check(client: MlflowClient, run_id: str, rows: list[Metric]) -> None:
    """See that a run holds every row, once."""
    data = client.get_run(run_id).data
    assert data.params == _PARAMS and _TAGS.items() <= data.tags.items()
    losses = [(row.step, row.value) for row in rows if row.key == LOSS]
    points = client.get_metric_history(run_id, LOSS) if losses else []
    assert sorted((point.step, point.value) for point in points) == losses
    assert len(data.metrics) == len({row.key for row in rows})


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Yield the URI of a server that ends, with its workers, with the context."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env=environment, cwd=folder
        )
    try:
        _wait(uri, process)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(uri: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + _START_PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("The MLflow server did not start.")
