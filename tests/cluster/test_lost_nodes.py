"""Nodes that are taken away: told apart from nodes that break."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.exceptions import RayError

from cluster.attempts import AttemptFailure
from cluster.nodes import was_taken_away, with_lost_nodes
from search_spaces.contracts import FailureClass
from tests.cluster.hosts import why_not
from tests.cluster.programs import told_by

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
    """A spot node that drains in good time, one that is killed, one that gets SIGTERM, one cut off.

    With the advised settings the last is noticed in 12 s and not in Ray's 65 s.
    """
    said = told_by("lost_nodes", tmp_path)
    ends = [one for one in said if "way" in one]
    assert [(end["way"], end["failure"]) for end in ends] == [
        ("noticed", "preempted"),
        ("drained", "preempted"),
        ("ended", "preempted"),
        ("cut", "infrastructure"),
    ]
    assert ends[0]["message"] == "left in good order"
    assert all("which was taken away" in end["message"] for end in ends[1:3])
    assert float(ends[3]["took_s"]) < 45
    assert {"doctor": "a node that vanishes is noticed within 12 s."} in said


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_cut_off_its_network_is_replaced_and_its_zombie_refused(tmp_path: Path) -> None:
    """The attempt there is given up and done elsewhere; what it still leaves counts for nothing."""
    if reason := why_not():
        pytest.skip(reason)
    said = told_by(
        "cut_off_node",
        tmp_path,
        RAY_health_check_failure_threshold="3",
        RAY_health_check_period_ms="2000",
        RAY_health_check_timeout_ms="2000",
    )
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
