"""What runs next: a pure, deterministic ask/tell state machine over the graph.

It knows no executor, clock or store: whoever drives it says what happened and when. The same
machine therefore serves a cluster and a simulated clock.
"""

from __future__ import annotations

from collections import Counter

from orchestrator.costs import ComputeFor, any_compute, trial_length
from orchestrator.graph import TrialGraph
from orchestrator.ready_queue import Delays, ReadyQueue
from orchestrator.retries import (
    DEFAULT_BUDGETS,
    DEFAULT_RULES,
    Cause,
    Decision,
    RetryBudgets,
    RetryRules,
)
from search_spaces.canonical import short
from search_spaces.contracts import FailureClass, TrialState
from search_spaces.trial import Trial


class SchedulerError(ValueError):
    """The driver told something that cannot have happened in the trial's state."""


class Scheduler:
    """Keeps the state of every trial and says which are ready.

    Ready trials are ordered by the length of the longest chain that begins with them, longest
    first, then by the order in which the trials were given. Length is work over the devices of
    the gang that does it, so that it holds over gangs of several sizes.
    """

    def __init__(
        self,
        graph: TrialGraph,
        budgets: RetryBudgets = DEFAULT_BUDGETS,
        rules: RetryRules = DEFAULT_RULES,
        compute_for: ComputeFor = any_compute,
    ) -> None:
        self._graph = graph
        self._compute_for = compute_for
        self._budgets = budgets
        self._rules = rules
        self._states: dict[str, TrialState] = {}
        self._counts: Counter[TrialState] = Counter()
        self._causes: dict[str, Cause] = {}
        self._num_failures: Counter[tuple[str, FailureClass]] = Counter()
        self._num_unmet: dict[str, int] = {}
        self._chains: dict[str, float] = {}
        self._order = {key: index for index, key in enumerate(graph)}
        self._ready = ReadyQueue()
        self._delays = Delays()
        for key in graph:
            self._register(key)
        for key in reversed(graph.topological_order()):
            self._chains[key] = self._chain_from(key)
        for key in graph:
            self._offer(key)

    def ready(self, now: float, limit: int | None = None) -> list[str]:
        """Return the trials that may start now, most urgent first.

        Args:
            now: Seconds since the epoch; retries whose back-off has passed are among them.
            limit: Return at most this many; None = all.
        """
        for key in self._delays.due(now):
            self._offer(key)
        return self._ready.all() if limit is None else self._ready.most_urgent(limit)

    def next_wakeup(self, now: float) -> float | None:
        """Return the seconds until the next retry's back-off has passed; None = no retry waits."""
        return self._delays.next_in(now)

    def start(self, key: str, attempt: str) -> None:
        """Mark a ready trial as running.

        Raises:
            SchedulerError: When the trial is not ready.
        """
        if key not in self._ready:
            raise SchedulerError(
                f"Attempt {attempt} of trial {short(key)} cannot start: "
                f"it is {self._states[key]} and not ready."
            )
        self._set_state(key, TrialState.RUNNING)

    def succeed(self, key: str) -> None:
        """Mark a running trial as succeeded; its children may become ready.

        Raises:
            SchedulerError: When the trial is not running.
        """
        self._require(key, TrialState.RUNNING, "succeed")
        self._finish_well(key)

    def reuse(self, key: str) -> None:
        """Mark a pending trial as succeeded because its result exists already.

        Raises:
            SchedulerError: When the trial is not pending.
        """
        self._require(key, TrialState.PENDING, "be reused")
        self._finish_well(key)

    def fail(
        self,
        key: str,
        failure: FailureClass,
        message: str,
        now: float,
        may_retry: bool = True,
    ) -> Decision:
        """Take note of a failed attempt, and decide between a retry and the end.

        Args:
            key: A running trial.
            failure: Its class; each class has its own budget, and a user error has none.
            message: One sentence for people.
            now: Seconds since the epoch.
            may_retry: False where the driver knows that another attempt cannot go otherwise.

        Raises:
            SchedulerError: When the trial is not running.
        """
        self._require(key, TrialState.RUNNING, "fail")
        self._num_failures[key, failure] += 1
        num_failures = self._num_failures[key, failure]
        budget = 0 if failure is FailureClass.USER_ERROR else self._budgets.get(failure, 0)
        if may_retry and num_failures <= budget:
            return self._retry(key, now + self._rules.wait_s(key, failure, num_failures))
        self._set_state(key, TrialState.FAILED)
        cause = Cause(key, failure, message)
        self._causes[key] = cause
        return Decision(False, blocked=self._spread(key, TrialState.BLOCKED, cause))

    def skip(self, key: str, reason: str) -> tuple[str, ...]:
        """Leave out a pending trial and every pending trial that waits for it.

        Returns:
            The keys that are now SKIPPED, the trial itself first.

        Raises:
            SchedulerError: When the trial is not pending.
        """
        self._require(key, TrialState.PENDING, "be skipped")
        cause = Cause(key, None, reason)
        self._set_state(key, TrialState.SKIPPED)
        self._causes[key] = cause
        return (key, *self._spread(key, TrialState.SKIPPED, cause))

    def add(self, trial: Trial) -> str:
        """Add a trial to the graph and return its key.

        A trial below one that will not succeed shares its fate at once.

        Raises:
            GraphError: When the trial is known already or a parent is missing.
        """
        key = self._graph.add(trial)
        self._order[key] = len(self._order)
        self._register(key)
        self._lengthen_chains(key)
        for parent in self._graph.parents(key):
            if parent in self._causes:
                self._inherit(key, parent)
                return key
        self._offer(key)
        return key

    def cancel(self) -> tuple[str, ...]:
        """Give up every trial that has not finished, and return their keys."""
        open_keys = tuple(key for key, state in self._states.items() if not state.is_finished)
        for key in open_keys:
            self._set_state(key, TrialState.CANCELLED)
        return open_keys

    def state(self, key: str) -> TrialState:
        """Return the state of a trial."""
        return self._states[key]

    def cause(self, key: str) -> Cause | None:
        """Return why a trial failed, was blocked, skipped or given up; None for any other."""
        return self._causes.get(key)

    def counts(self) -> dict[TrialState, int]:
        """Return the number of trials in every state."""
        return {state: self._counts[state] for state in TrialState}

    @property
    def is_finished(self) -> bool:
        """Whether no trial is pending or running."""
        return not self._counts[TrialState.PENDING] and not self._counts[TrialState.RUNNING]

    def _register(self, key: str) -> None:
        self._states[key] = TrialState.PENDING
        self._counts[TrialState.PENDING] += 1
        parents = self._graph.parents(key)
        self._num_unmet[key] = sum(
            self._states.get(parent) is not TrialState.SUCCEEDED for parent in parents
        )

    def _chain_from(self, key: str) -> float:
        """Return the length of the longest chain that begins with a trial."""
        below = max((self._chains[child] for child in self._graph.children(key)), default=0.0)
        return self._length(key) + below

    def _length(self, key: str) -> float:
        trial = self._graph[key]
        return trial_length(trial.spec, self._compute_for(trial))

    def _lengthen_chains(self, key: str) -> None:
        """Compute the chain of a new trial, and of the ancestors whose chain it lengthens."""
        self._chains[key] = self._chain_from(key)
        queue = [key]
        for child in queue:  # grows while it is read
            for parent in self._graph.parents(child):
                longer = self._length(parent) + self._chains[child]
                if longer > self._chains[parent]:
                    self._move_up(parent, longer)
                    queue.append(parent)

    def _move_up(self, key: str, chain: float) -> None:
        self._chains[key] = chain
        if key in self._ready:
            self._offer(key)

    def _offer(self, key: str) -> None:
        """Put a trial among the ready ones if nothing is in its way."""
        is_pending = self._states[key] is TrialState.PENDING
        if is_pending and not self._num_unmet[key] and key not in self._delays:
            self._ready.offer(key, self._chains[key], self._order[key])

    def _set_state(self, key: str, state: TrialState) -> None:
        self._ready.withdraw(key)
        self._delays.drop(key)
        self._counts[self._states[key]] -= 1
        self._counts[state] += 1
        self._states[key] = state

    def _finish_well(self, key: str) -> None:
        self._set_state(key, TrialState.SUCCEEDED)
        for child in self._graph.children(key):
            self._num_unmet[child] -= 1
            self._offer(child)

    def _retry(self, key: str, not_before: float) -> Decision:
        self._set_state(key, TrialState.PENDING)
        self._delays.put(key, not_before, self._order[key])
        return Decision(True, not_before=not_before)

    def _spread(self, key: str, state: TrialState, cause: Cause) -> tuple[str, ...]:
        """Give every pending trial that waits for ``key`` a final state, and return them."""
        reached: list[str] = []
        queue = list(self._graph.children(key))
        for child in queue:  # grows while it is read
            if self._states[child] is TrialState.PENDING:
                self._set_state(child, state)
                self._causes[child] = cause
                reached.append(child)
                queue.extend(self._graph.children(child))
        return tuple(reached)

    def _inherit(self, key: str, parent: str) -> None:
        """Give a trial the fate of a parent that will not succeed."""
        state = self._states[parent]
        self._set_state(key, TrialState.BLOCKED if state is TrialState.FAILED else state)
        self._causes[key] = self._causes[parent]

    def _require(self, key: str, state: TrialState, action: str) -> None:
        if self._states[key] is not state:
            raise SchedulerError(
                f"Trial {short(key)} is {self._states[key]} and cannot {action}; "
                f"only a {state} trial can."
            )
