"""`tickets run` when another program ends it: a real process on real Ray."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import ray

from cluster.session import Session
from search_spaces.contracts import TrialState
from tests.orchestrator.sweep_files import committed, runs_of
from tests.orchestrator.sweeps import ended, start, states, wait_until, write_sweep


@pytest.mark.ray
def test_sigterm_ends_a_run_in_good_order(ray_session: Session, data: Path, tmp_path: Path) -> None:
    """Exit code 143 and how to go on; no lease, no open trial and no running parent is left."""
    sweep = write_sweep(tmp_path, "told", data)
    process = start(
        "run", str(sweep), cwd=tmp_path, cluster=str(ray.get_runtime_context().gcs_address)
    )
    wait_until(lambda: committed(sweep) or process.poll() is not None, "a trial is committed")
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    done = ended(process)
    said = done.stdout + done.stderr
    assert done.returncode == 143, said
    assert f"Stopped; nothing is lost. Go on with: tickets run {sweep}" in done.stdout
    assert "SIGTERM" not in said and "Traceback" not in said
    assert not list((tmp_path / "told-store").rglob("LEASE*"))
    stood = {row[0] for row in states(sweep).values()}
    assert stood == {TrialState.SUCCEEDED, TrialState.CANCELLED}
    (parent,) = runs_of(sweep, "tags.kind = 'sweep'")
    assert parent.info.status not in ("RUNNING", "FINISHED")
