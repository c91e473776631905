"""Sweeps as jobs of a real cluster with a token: to the end, refused, lost, resumed, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.journal_reader import open_reader
from orchestrator.sweep_context import SweepContext
from search_spaces.contracts import TrialState
from search_spaces.errors import UserError
from tests.cluster.clusters import Cluster, run, running_cluster, until
from tests.orchestrator.sweeps import write_sweep

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SERIES = {"trials", "running", "waiting_seconds", "mirror_lag"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as started:
        yield started


def _job_ids(said: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"Job (tickets-\S+?)[:,]", said)))


def test_followed_to_its_end(cluster: Cluster, data: Path, tmp_path: Path) -> None:
    """A sweep runs on the cluster as planned here; again, nothing is copied and nothing trained."""
    sweep = write_sweep(tmp_path, "mini", data)
    where = ("--address", cluster.url)
    first = run(cluster, "submit", str(sweep), *where, "--follow", cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "SUCCEEDED 6" in first.stdout and "6 file(s)" in first.stdout
    [job_id] = _job_ids(first.stdout)
    known = cluster.asked(f"/api/jobs/{job_id}")
    info = SweepContext.open(sweep).info
    assert known["metadata"]["plan_hash"] == info.sweep_hash
    assert known["metadata"]["sweep"] == "mini" and known["metadata"]["mlflow"]
    assert "env_vars" not in known["runtime_env"]

    again = run(cluster, "submit", str(sweep), *where, "--follow", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "no new" in again.stdout and "0 to run" in again.stdout

    shown = run(cluster, "status", str(sweep), *where, "--json", cwd=tmp_path)
    told = json.loads(shown.stdout)
    assert told["job"]["status"] == "SUCCEEDED"
    assert {row["state"] for row in told["trials"]} == {"SUCCEEDED"}

    ended = run(cluster, "logs", str(sweep), *where, "--follow", cwd=tmp_path)
    assert ended.returncode == 0 and "0 to run" in ended.stdout, ended.stdout + ended.stderr
    assert ended.stdout.rstrip().splitlines()[-1].startswith(f"Job {told['job']['id']}: SUCCEEDED")
    trial = run(cluster, "logs", str(sweep), "dense:toy:s1", *where, cwd=tmp_path)
    assert trial.returncode == 0 and "dense:toy:s1  SUCCEEDED" in trial.stdout, trial.stderr

    token = cluster.token_path.read_text()
    texts = [first.stdout, first.stderr, json.dumps(known), shown.stdout]
    texts += [path.read_text(errors="replace") for path in cluster.folder.rglob("job-driver-*")]
    assert not any(token in text for text in texts)


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_without_the_token(cluster: Cluster, data: Path, tmp_path: Path, token: str) -> None:
    """Nobody submits, looks or stops without the cluster's own token; one sentence says why."""
    sweep = write_sweep(tmp_path, "refused", data)
    changes = {"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": token}
    said = "refuses the token" if token else "asks for a token"
    for command in ("submit", "status", "stop", "logs"):
        done = run(cluster, command, str(sweep), "--address", cluster.url, cwd=tmp_path, **changes)
        assert done.returncode == 2, done.stdout + done.stderr
        assert said in done.stderr and "RAY_AUTH_TOKEN_PATH" in done.stderr
        assert done.stderr.count("\n") == 1 and done.stdout == ""


def _driver(journal: Path) -> int:
    """Return the process of the run that has a trial running; 0 where there is none."""
    if not journal.exists():
        return 0
    try:
        with open_reader(journal) as reader:
            pid = int(reader.meta()["pid"])
            is_running = reader.counts().get(TrialState.RUNNING, 0) > 0
    except (UserError, KeyError):  # this very moment it is made
        return 0
    return pid if is_running and Path(f"/proc/{pid}").exists() else 0


def _series(text: str) -> set[str]:
    """Return which of a sweep's series are among what is exported."""
    found = re.findall(r'^ray_tickets_(\w+)\{[^}]*sweep="long"', text, re.MULTILINE)
    return set(found) & SERIES


def _names(cluster: Cluster, what: str) -> set[str]:
    return {item["name"] for item in cluster.listed(what)}


def test_lost_driver_is_replaced_and_its_run_can_be_stopped(
    cluster: Cluster, data: Path, tmp_path: Path
) -> None:
    """A killed driver's sweep is submitted again; dashboard and metrics know it by its names."""
    recipe = {"epochs": 400, "batch_size": 16, "learning_rate": 1e-3}
    sweep = write_sweep(tmp_path, "long", data, recipe=recipe)
    journal = tmp_path / "long-store" / "journals" / "long.sqlite"
    with open(tmp_path / "said", "w") as said:
        command = [sys.executable, "-m", "orchestrator.cli", "submit", str(sweep), "--supervise"]
        supervisor = subprocess.Popen(
            [*command, "--address", cluster.url],
            env=cluster.environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        until(lambda: _driver(journal), "a trial runs", cluster)
        first = _driver(journal)
        os.kill(first, signal.SIGKILL)
        until(lambda: _driver(journal) not in (0, first), "a trial runs again", cluster)

        until(lambda: len(_series(cluster.metrics())) == len(SERIES), "all metrics", cluster)
        until(lambda: "dense:toy:s1" in _names(cluster, "tasks"), "the trial's task", cluster)
        assert "tickets-gang0-rank0" in _names(cluster, "actors")

        stopped = run(cluster, "stop", str(sweep), "--address", cluster.url, cwd=tmp_path)
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert supervisor.wait(120) == 130
    finally:
        if supervisor.poll() is None:
            supervisor.kill()
            supervisor.wait()
    told = (tmp_path / "said").read_text()
    assert "its driver was lost (signal 9)" in told and len(_job_ids(told)) == 2
