"""Which trials a sweep adds or leaves out in the light of a result: pure, so that it replays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.graph import TrialGraph
from search_spaces.contracts import TrialResult, TrialState
from search_spaces.trial import Trial


@dataclass(frozen=True)
class Add:
    """A trial joins the sweep; its parents are in the graph already."""

    trial: Trial
    reason: str


@dataclass(frozen=True)
class Skip:
    """A pending trial, and all that wait for it, are left out."""

    key: str
    reason: str


Event = Add | Skip


class SchedulerView(Protocol):
    """What a policy may know of the scheduler."""

    def state(self, key: str) -> TrialState:
        """Return the state of a trial."""


class Policy(Protocol):
    """Decides on trials when a result is in.

    A policy keeps no state of its own: a resumed sweep shows it the stored results again, in the
    order of the graph, and must get the same events.
    """

    def heeds(self, key: str) -> bool:
        """Whether the result of a trial can ever lead to an event; else nobody need read it."""

    def on_result(
        self, graph: TrialGraph, scheduler: SchedulerView, trial: Trial, result: TrialResult
    ) -> list[Event]:
        """Return what follows from a trial's result."""


class LadderPolicy:
    """Runs every level of every lineage, whatever the verdicts are (method rule 17)."""

    def heeds(self, key: str) -> bool:
        """Return False: no result changes anything."""
        return False

    def on_result(
        self, graph: TrialGraph, scheduler: SchedulerView, trial: Trial, result: TrialResult
    ) -> list[Event]:
        """Return no events: the whole ladder runs."""
        return []


class PolicyGroup:
    """Several policies as one: what any of them decides."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._policies = tuple(policies)

    def heeds(self, key: str) -> bool:
        """Return whether any of them does."""
        return any(policy.heeds(key) for policy in self._policies)

    def on_result(
        self, graph: TrialGraph, scheduler: SchedulerView, trial: Trial, result: TrialResult
    ) -> list[Event]:
        """Return all policies' events; a trial that two of them skip is skipped once."""
        events: dict[str, Event] = {}
        for policy in self._policies:
            for event in policy.on_result(graph, scheduler, trial, result):
                key = event.trial.key if isinstance(event, Add) else event.key
                events.setdefault(key, event)
        return list(events.values())
