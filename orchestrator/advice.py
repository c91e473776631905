"""What a policy decides, carried out: trials join a running sweep or are left out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, Transition
from orchestrator.policies import Add, Policy
from orchestrator.scheduler import Scheduler
from search_spaces.contracts import TrialResult, TrialState


class Advice:
    """Asks a policy, and writes what follows to scheduler and journal.

    Results wait here until the policy has seen them: it may read others of the store, which may
    not answer for a while.
    """

    def __init__(
        self, graph: TrialGraph, scheduler: Scheduler, journal: Journal, policy: Policy
    ) -> None:
        self.graph, self.scheduler = graph, scheduler
        self.journal, self.policy = journal, policy
        self._waiting: deque[tuple[str, TrialResult]] = deque()
        self._all_again = False

    @property
    def is_waiting(self) -> bool:
        """Whether the policy has not seen all results yet."""
        return bool(self._waiting) or self._all_again

    def ask(self, key: str, result: TrialResult) -> None:
        """Show the policy a result with the next ``follow``."""
        self._waiting.append((key, result))

    def ask_again(self) -> None:
        """Show the policy once more every result that it heeds, as a resumed sweep does."""
        self._all_again = True

    def follow(self, read: Callable[[str], TrialResult | None], now: float) -> None:
        """Show the policy what waits, and carry out what it says; it may be told the same twice.

        Args:
            read: Returns a committed result by trial key.
            now: Seconds since the epoch.

        Raises:
            StoreAwayError: Some of it waits still.
        """
        while self._waiting:
            self._take(*self._waiting[0], now)
            self._waiting.popleft()
        if self._all_again:
            for key in filter(self.policy.heeds, list(self.graph)):
                if self.scheduler.state(key) is TrialState.SUCCEEDED and (result := read(key)):
                    self._take(key, result, now)
            self._all_again = False

    def _take(self, key: str, result: TrialResult, now: float) -> None:
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
