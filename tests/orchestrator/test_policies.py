"""Policies."""

from __future__ import annotations

from orchestrator.graph import TrialGraph
from orchestrator.policies import LadderPolicy, Policy
from orchestrator.scheduler import Scheduler
from tests.orchestrator.factories import make_lineage, make_result


def test_the_ladder_runs_whatever_the_score():
    """Even a ticket that lost everything does not end its lineage."""
    lineage = make_lineage(num_rounds=3)
    graph = TrialGraph(lineage)
    policy: Policy = LadderPolicy()
    result = make_result(lineage[0], "a1", score=0.0)
    assert policy.on_result(graph, Scheduler(graph), lineage[0], result) == []
