"""Policies."""

from __future__ import annotations

from orchestrator.advice import Advice
from orchestrator.graph import TrialGraph
from orchestrator.policies import LadderPolicy, Policy, PolicyGroup
from orchestrator.scheduler import Scheduler
from tests.orchestrator.factories import make_lineage, make_result


def test_the_ladder_runs_whatever_the_score():
    """Even a ticket that lost everything does not end its lineage."""
    lineage = make_lineage(num_rounds=3)
    graph = TrialGraph(lineage)
    policy: Policy = LadderPolicy()
    result = make_result(lineage[0], "a1", score=0.0)
    assert policy.on_result(graph, Scheduler(graph), lineage[0], result) == []


class Careful(LadderPolicy):
    """Heeds one trial, and writes down what it is shown."""

    def __init__(self, heeded):
        self.heeded, self.shown = heeded, []

    def heeds(self, key):
        return key == self.heeded

    def on_result(self, graph, scheduler, trial, result):
        self.shown.append(trial.key)
        return []


def test_results_that_no_policy_heeds_are_not_read_again():
    """Of three results one is read; a group heeds what any of its policies does."""
    lineage = make_lineage(num_rounds=3)
    graph = TrialGraph(lineage)
    scheduler = Scheduler(graph)
    for trial in lineage:
        scheduler.reuse(trial.key)
    policy, read = Careful(lineage[1].key), []

    def reads(key):
        read.append(key)
        return make_result(graph[key], "a1")

    group = PolicyGroup([LadderPolicy(), policy])
    advice = Advice(graph, scheduler, None, group)
    advice.ask_again()
    advice.follow(reads, now=0.0)
    assert read == policy.shown == [lineage[1].key]
