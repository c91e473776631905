"""A scheduler whose trials people may give up and reopen while it runs.

Adds two moves to the state machine and takes none away; as pure as the rest of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.retries import Cause
from orchestrator.scheduler import Scheduler, SchedulerError
from search_spaces.canonical import short
from search_spaces.contracts import FailureClass, TrialState


class SteeredScheduler(Scheduler):
    """Keeps the state of every trial, also of those that people have given up.

    A trial is its own cause when it failed or was given up itself; any other that cannot run
    names the ancestor that is in its way.
    """

    def give_up(self, key: str, message: str) -> tuple[str, ...]:
        """Cancel an open trial and every pending trial that waits for it.

        Returns:
            The keys that are now CANCELLED, the trial itself first.

        Raises:
            SchedulerError: When the trial has ended.
        """
        if self.state(key).is_finished:
            raise SchedulerError(f"Trial {short(key)} is {self.state(key)}: it has ended.")
        cause = Cause(key, None, message)
        self._set_state(key, TrialState.CANCELLED)
        self._causes[key] = cause
        return (key, *self._spread(key, TrialState.CANCELLED, cause))

    def reopen(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Make failed and cancelled trials pending again, and what did not run because of them.

        Their retry budgets are fresh. A trial that waits for another one that will not succeed
        stays out: with its own cause if it was given up itself, else with that one's.

        Returns:
            The keys whose state or cause has changed; most are PENDING now.
        """
        dead = (TrialState.FAILED, TrialState.CANCELLED)
        reached = self._held_by(key for key in keys if self.state(key) in dead)
        before = {key: (self.state(key), self._causes.pop(key, None)) for key in reached}
        for key in self._parents_first(reached):
            obstacle, cause = self.obstacle(key), before[key][1]
            if obstacle is None:
                self._reopen(key)
            elif cause and cause.key == key:  # given up itself: asked for before its ancestor
                self._causes[key] = cause
            else:
                self._inherit(key, obstacle)
        return tuple(
            key
            for key, (state, cause) in before.items()
            if self.state(key) is not state or self.cause(key) is not cause
        )

    def obstacle(self, key: str) -> str | None:
        """Return a parent that will not succeed, if there is one."""
        return next((p for p in self._graph.parents(key) if p in self._causes), None)

    def _held_by(self, roots: Iterable[str]) -> dict[str, None]:
        """Return these trials, and those that are blocked or cancelled because of them."""
        reached = dict.fromkeys(roots)
        queue = list(reached)
        for key in queue:  # grows while it is read
            for child in self._graph.children(key):
                cause = self.cause(child)
                if child not in reached and cause and cause.key in reached:
                    reached[child] = None
                    queue.append(child)
        return reached

    def _parents_first(self, keys: dict[str, None]) -> list[str]:
        return [key for key in self._graph.topological_order() if key in keys] if keys else []

    def _reopen(self, key: str) -> None:
        for failure in FailureClass:
            self._num_failures.pop((key, failure), None)
        self._set_state(key, TrialState.PENDING)
        self._offer(key)
