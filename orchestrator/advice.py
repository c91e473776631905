"""What a policy decides, carried out: trials join a running sweep or are left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, Transition
from orchestrator.policies import Add, Policy
from orchestrator.scheduler import Scheduler
from search_spaces.contracts import TrialResult, TrialState


@dataclass(frozen=True)
class Advice:
    """Asks a policy, and writes what follows to scheduler and journal."""

    graph: TrialGraph
    scheduler: Scheduler
    journal: Journal
    policy: Policy

    def take_again(self, read: Callable[[str], TrialResult | None], now: float) -> None:
        """Show the policy once more every result that it heeds, as a resumed sweep does."""
        for key in filter(self.policy.heeds, list(self.graph)):
            if self.scheduler.state(key) is TrialState.SUCCEEDED and (result := read(key)):
                self.take(key, result, now)

    def take(self, key: str, result: TrialResult, now: float) -> None:
        """Let the policy add and skip trials in the light of a result."""
        events = self.policy.on_result(self.graph, self.scheduler, self.graph[key], result)
        for event in events:
            if isinstance(event, Add):
                if event.trial.key not in self.graph:  # it may be said anew of a result shown anew
                    self._add(event, now)
            elif self.scheduler.state(event.key) is TrialState.PENDING:  # one may skip another
                skipped = self.scheduler.skip(event.key, event.reason)
                self.journal.record(
                    (Transition(k, TrialState.SKIPPED, "skipped", event.reason) for k in skipped),
                    now,
                )

    def _add(self, event: Add, now: float) -> None:
        added = self.scheduler.add(event.trial)
        self.journal.add(added, event.trial, event.reason, now)
        if cause := self.scheduler.cause(added):
            state = self.scheduler.state(added)
            change = Transition(added, state, state.lower(), cause.message)
            self.journal.record([change], now)
