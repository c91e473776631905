"""A cluster that exists only on a simulated clock: its slots, and when its nodes go down."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

SECONDS_PER_HOUR = 3600.0

What = Literal["failed", "preempted", "back"]


@dataclass(frozen=True)
class Host:
    """What goes down together: a node, or all the nodes that one gang spans.

    Attributes:
        num_slots: Gangs that run on it at once.
        num_nodes: Nodes that it is made of; each may go down and takes the others along.
    """

    num_slots: int
    num_nodes: int = 1


@dataclass(frozen=True)
class Hazards:
    """How often nodes go down, and for how long.

    Attributes:
        mtbf_s: Mean seconds between two failures of one node; infinite = none fails.
        preemptions_per_hour: Of one node.
        repair_s: Seconds until a node, or another in its place, is back.
        seed: Of the draws.
    """

    mtbf_s: float = math.inf
    preemptions_per_hour: float = 0.0
    repair_s: float = 600.0
    seed: int = 0

    @property
    def failures_per_s(self) -> float:
        """Failures of one node a second, preemptions not among them."""
        return 1 / self.mtbf_s

    @property
    def outages_per_s(self) -> float:
        """Failures and preemptions of one node a second."""
        return self.failures_per_s + self.preemptions_per_hour / SECONDS_PER_HOUR


class Outage(NamedTuple):
    """A host goes down, or is back."""

    at: float
    host: int
    what: What


class Outages:
    """When hosts go down and come back, as exponential laws drawn host by host.

    The draws do not look at what runs: two schedules under one seed meet the same outages.
    """

    def __init__(self, hosts: Sequence[Host], hazards: Hazards) -> None:
        self._hazards = hazards
        self._rates = [host.num_nodes * hazards.outages_per_s for host in hosts]
        self._draws = [random.Random(f"{hazards.seed}:{index}") for index in range(len(hosts))]
        self._coming = [self._next(index, 0.0) for index in range(len(hosts))]
        heapq.heapify(self._coming)

    @property
    def next_at(self) -> float:
        """When the next host goes down or comes back; infinite = never."""
        return self._coming[0].at

    def take(self) -> Outage:
        """Return the next one, and draw what follows it on that host."""
        outage = self._coming[0]
        if outage.what == "back":
            follows = self._next(outage.host, outage.at)
        else:
            follows = Outage(outage.at + self._hazards.repair_s, outage.host, "back")
        heapq.heapreplace(self._coming, follows)
        return outage

    def _next(self, host: int, since: float) -> Outage:
        rate, draws = self._rates[host], self._draws[host]
        if not rate:
            return Outage(math.inf, host, "failed")
        at = since + draws.expovariate(rate)
        is_failure = draws.random() * self._hazards.outages_per_s < self._hazards.failures_per_s
        return Outage(at, host, "failed" if is_failure else "preempted")


class Place(NamedTuple):
    """Where an attempt runs.

    Attributes:
        host: Its number.
        slots: Numbers of the slots that it takes there.
    """

    host: int
    slots: tuple[int, ...]


class VirtualCluster:
    """Which slots of which hosts are free."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._free = [list(range(host.num_slots)) for host in hosts]  # heaps
        self._is_up = [True] * len(hosts)
        self.num_free = self.num_slots = sum(host.num_slots for host in hosts)
        self.widest = max((host.num_slots for host in hosts), default=0)

    def take(self, width: int) -> Place | None:
        """Take slots of one host that is up, the fullest that has room; None = none has."""
        room = (
            (len(free), index)
            for index, free in enumerate(self._free)
            if len(free) >= width and self._is_up[index]
        )
        _, host = min(room, default=(0, None))
        if host is None:
            return None
        self.num_free -= width
        return Place(host, tuple(heapq.heappop(self._free[host]) for _ in range(width)))

    def give_back(self, place: Place) -> None:
        """Free the slots of an attempt that has ended."""
        for slot in place.slots:
            heapq.heappush(self._free[place.host], slot)
        self.num_free += len(place.slots) * self._is_up[place.host]

    def set_up(self, host: int, is_up: bool) -> None:
        """Note that a host has gone down or is back."""
        if is_up != self._is_up[host]:
            self._is_up[host] = is_up
            self.num_free += len(self._free[host]) * (1 if is_up else -1)
