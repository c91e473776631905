"""How a sweep would go: the real scheduler on a simulated clock and a simulated cluster.

Retries, back-off and blocking are the scheduler's own. An attempt that is hit begins anew: it
leaves nothing behind. Policies have no part in it, since there are no scores.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from orchestrator.costs import ComputeFor, any_compute
from orchestrator.graph import TrialGraph
from orchestrator.retries import DEFAULT_BUDGETS, DEFAULT_RULES, RetryBudgets, RetryRules
from orchestrator.scheduler import Scheduler
from orchestrator.simulated_nodes import Hazards, Host, Outage, Outages, Place, VirtualCluster
from search_spaces.contracts import FailureClass, TrialState

Ending = Literal["done", "failed", "preempted"]
NO_HAZARDS = Hazards()
# As a cluster's executor tells them apart: each class has its own budget.
_FAILURES: Mapping[str, FailureClass] = {
    "failed": FailureClass.INFRASTRUCTURE,
    "preempted": FailureClass.PREEMPTED,
}


class Attempt(NamedTuple):
    """One attempt of a trial, in seconds since the sweep began."""

    key: str
    start: float
    end: float
    place: Place
    ending: Ending

    @property
    def slot_s(self) -> float:
        """Seconds of a slot that it took."""
        return (self.end - self.start) * len(self.place.slots)


@dataclass(frozen=True)
class Schedule:
    """What happened, in the order of the ends.

    Attributes:
        attempts: All of them, also those that were hit.
        outages: When hosts went down and came back, as long as there was something to run.
        states: Of all trials at the end; one that had its result counts as succeeded.
        num_slots: Slots of all hosts.
        num_retries: Attempts that the scheduler gave a trial after one was hit.
    """

    attempts: tuple[Attempt, ...]
    outages: tuple[Outage, ...]
    states: Mapping[str, TrialState]
    num_slots: int
    num_retries: int

    @property
    def wall_s(self) -> float:
        """Seconds until the last attempt ended."""
        return max((attempt.end for attempt in self.attempts), default=0.0)


def simulate(
    graph: TrialGraph,
    seconds: Mapping[str, float],
    hosts: Sequence[Host],
    hazards: Hazards = NO_HAZARDS,
    budgets: RetryBudgets = DEFAULT_BUDGETS,
    widths: Mapping[str, int] | None = None,
    rules: RetryRules = DEFAULT_RULES,
    compute_for: ComputeFor = any_compute,
    most: int | None = None,
) -> Schedule:
    """Run all trials on a simulated clock; equal arguments give an equal schedule.

    Args:
        graph: All trials.
        seconds: How long each trial takes; a trial that is absent has its result already.
        hosts: The cluster.
        hazards: How often its nodes go down.
        budgets: Retries by class of failure; nodes fail by the infrastructure, or are preempted.
        widths: Slots, of one host, that trials take; 1 for one that is absent.
        rules: How trials are tried again, beside how often.
        compute_for: What a trial runs on, as the scheduler is told.
        most: Attempts at once; None = as many as find slots.

    Raises:
        ValueError: When a trial takes more slots than any host has.
    """
    simulation = _Simulation(
        graph, seconds, hosts, hazards, budgets, widths or {}, rules, compute_for, most
    )
    simulation.run()
    return simulation.schedule()


class _Running(NamedTuple):
    serial: int
    start: float
    place: Place


@dataclass
class _Simulation:
    """The scheduler, the cluster and the clock between them."""

    graph: TrialGraph
    seconds: Mapping[str, float]
    hosts: Sequence[Host]
    hazards: Hazards
    budgets: RetryBudgets
    widths: Mapping[str, int]
    rules: RetryRules
    compute_for: ComputeFor
    most: int | None
    attempts: list[Attempt] = field(default_factory=list)
    seen: list[Outage] = field(default_factory=list)
    num_retries: int = 0

    def __post_init__(self) -> None:
        self._cluster = VirtualCluster(self.hosts)
        widest = max([1, *self.widths.values()])
        if widest > self._cluster.widest:
            raise ValueError(
                f"A trial takes {widest} slots, but no host has more than {self._cluster.widest}."
            )
        self._outages = Outages(self.hosts, self.hazards)
        self._scheduler = Scheduler(self.graph, self.budgets, self.rules, self.compute_for)
        self._now, self._serial = 0.0, 0
        self._running: dict[str, _Running] = {}
        self._ends: list[tuple[float, int, str]] = []  # heap; holds those of hit attempts too
        for key in self.graph:
            if key not in self.seconds:
                self._scheduler.reuse(key)

    def run(self) -> None:
        """Go on until no trial is pending or running."""
        while not self._scheduler.is_finished:
            self._start_ready()
            self._advance()

    def schedule(self) -> Schedule:
        """Return what happened."""
        return Schedule(
            attempts=tuple(self.attempts),
            outages=tuple(self.seen),
            states={key: self._scheduler.state(key) for key in self.graph},
            num_slots=self._cluster.num_slots,
            num_retries=self.num_retries,
        )

    def _start_ready(self) -> None:
        """Fill the free slots; where the most urgent trial finds no room, none overtakes it."""
        while self._num_startable:
            ready = self._scheduler.ready(self._now, self._num_startable)
            if not ready:
                return
            for key in ready:
                place = self._cluster.take(self.widths.get(key, 1))
                if place is None:
                    return
                self._start(key, place)

    @property
    def _num_startable(self) -> int:
        """Attempts that may be started, were all of one slot."""
        most = self._cluster.num_slots if self.most is None else self.most
        return min(self._cluster.num_free, most - len(self._running))

    def _start(self, key: str, place: Place) -> None:
        self._serial += 1
        self._scheduler.start(key, f"simulated {self._serial}")
        self._running[key] = _Running(self._serial, self._now, place)
        heapq.heappush(self._ends, (self._now + self.seconds[key], self._serial, key))

    def _advance(self) -> None:
        """Let the clock go to what happens next; at one instant all ends come before outages."""
        end_at = self._ends[0][0] if self._ends else math.inf
        # A retry that is due while no slot is free waits for an end, not for the clock.
        has_room = self._num_startable > 0
        wakeup_s = self._scheduler.next_wakeup(self._now) if has_room else None
        wakeup_at = math.inf if wakeup_s is None else self._now + wakeup_s
        next_at = min(end_at, self._outages.next_at, wakeup_at)
        assert next_at < math.inf, "trials are left, and nothing will ever happen"
        self._now = next_at
        if end_at == next_at:
            # All of them before anything starts: the last one may release the most urgent trial.
            while self._ends and self._ends[0][0] == next_at:
                self._end()
        elif self._outages.next_at == next_at:
            self._suffer(self._outages.take())

    def _end(self) -> None:
        _, serial, key = heapq.heappop(self._ends)
        running = self._running.get(key)
        if running is not None and running.serial == serial:  # else it was hit before
            self._leave(key, "done")
            self._scheduler.succeed(key)

    def _suffer(self, outage: Outage) -> None:
        """Take a host down with all that runs there, or take it back."""
        self.seen.append(outage)
        self._cluster.set_up(outage.host, outage.what == "back")
        if outage.what == "back":
            return
        hit = [key for key, one in self._running.items() if one.place.host == outage.host]
        for key in hit:
            self._leave(key, outage.what)
            message = f"simulated: host {outage.host} {outage.what}"
            failure = _FAILURES[outage.what]
            decision = self._scheduler.fail(key, failure, message, self._now)
            self.num_retries += decision.will_retry

    def _leave(self, key: str, ending: Ending) -> None:
        _, start, place = self._running.pop(key)
        self._cluster.give_back(place)
        self.attempts.append(Attempt(key, start, self._now, place, ending))
