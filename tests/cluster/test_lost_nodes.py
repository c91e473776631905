"""Nodes that are taken away: told apart from nodes that break."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ray.exceptions import RayError

from cluster.attempts import AttemptFailure
from cluster.nodes import was_taken_away, with_lost_nodes
from search_spaces.contracts import FailureClass
from tests.cluster.hosts import why_not

LOST_PEER = AttemptFailure(FailureClass.INFRASTRUCTURE, "connection reset by peer", "trace")
HERE, ELSEWHERE = "a" * 56, "b" * 56


def test_lost_peer_on_a_draining_node_is_preemption() -> None:
    """A rank on another node may see the end before Ray tells of it."""
    failure = with_lost_nodes(LOST_PEER, [HERE, ELSEWHERE], lambda: {HERE})
    assert failure.failure is FailureClass.PREEMPTED
    assert failure.message == (
        "Node aaaaaaaaaa of the gang is being taken away (drained or preempted). What was seen: "
        "connection reset by peer"
    )
    assert failure.details == "trace"


def test_other_nodes_and_other_failures_stay_what_they_are() -> None:
    assert with_lost_nodes(LOST_PEER, [ELSEWHERE], lambda: {HERE}) == LOST_PEER
    diverged = AttemptFailure(FailureClass.DIVERGED, "loss is nan")
    assert with_lost_nodes(diverged, [HERE], lambda: {HERE}) == diverged
    assert not was_taken_away(RayError("the actor's node was terminated expectedly"))


@pytest.mark.ray
@pytest.mark.slow
def test_drained_and_ended_nodes_are_preemption_on_a_real_cluster(tmp_path: Path) -> None:
    """A spot node that is drained and then killed, and a node that gets SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="tk", dir="/tmp") as short:  # sockets' paths
        (Path(short) / "ray").mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "tests.cluster.lost_nodes", str(tmp_path)],
            env={**os.environ, "RAY_TMPDIR": short, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    ends = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [(end["way"], end["failure"]) for end in ends] == [
        ("drained", "preempted"),
        ("ended", "preempted"),
    ], done.stderr[-2000:]
    assert all("which was taken away" in end["message"] for end in ends)


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_cut_off_its_network_is_replaced_and_its_zombie_refused(tmp_path: Path) -> None:
    """The attempt there is given up and done elsewhere; what it still leaves counts for nothing."""
    if reason := why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="tk", dir="/tmp") as short:
        quick = {"period": "2000", "timeout": "2000"}  # milliseconds
        done = subprocess.run(
            [sys.executable, "-m", "tests.cluster.cut_off_node", str(tmp_path)],
            env={
                **os.environ,
                "RAY_TMPDIR": short,
                "RAY_AUTH_MODE": "disabled",
                "RAY_health_check_failure_threshold": "3",
                **{f"RAY_health_check_{name}_ms": value for name, value in quick.items()},
            },
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert said, done.stderr[-2000:]
    assert 1 < said[0].pop("noticed_s") < 120
    assert said == [
        {
            "failure": "infrastructure",
            "zombie_was_alive": True,
            "fresh_was_committed": True,
            "zombie_was_refused": True,
            "attempt": "fresh",
            "late_answers": 0,
        }
    ]
