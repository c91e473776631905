"""What a simulated schedule comes to: seconds, shares, the critical path and the lower bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.graph import TrialGraph
from orchestrator.simulate import Schedule
from search_spaces.contracts import TrialState


class Unit(NamedTuple):
    """What a slot of the cluster is.

    Attributes:
        name: For people: a gang where all are of one size, else a GPU, a rank or a CPU.
        device: What is counted in hours.
        num_devices: Of those it has.
    """

    name: str = "gang"
    device: str = "CPU"
    num_devices: float = 1.0


GANG = Unit()


@dataclass(frozen=True)
class Figures:
    """A schedule in numbers; what was reused is not in them.

    Attributes:
        makespan_s: Seconds until the last attempt ended.
        num_slots: Slots of the cluster.
        num_trials: Trials that succeeded.
        work_s: Slot-seconds of the attempts that succeeded.
        lost_s: Slot-seconds of those that did not.
        chain_s: Length of the critical path: the longest chain among the trials that succeeded.
        chain: Its trials, first to last.
        num_attempts: Attempts that were started.
        num_failures: Attempts hit by the failure of a node.
        num_preemptions: Attempts hit by a preemption.
        num_retries: Of them, those after which the trial was tried again.
        num_failed: Trials given up.
        num_blocked: Trials that waited for one of those.
        slot: What a slot is.
        device: What ``device_hours`` counts.
        device_hours: Of all attempts, those that were lost among them.
    """

    makespan_s: float
    num_slots: int
    num_trials: int
    work_s: float
    lost_s: float
    chain_s: float
    chain: tuple[str, ...]
    num_attempts: int
    num_failures: int
    num_preemptions: int
    num_retries: int
    num_failed: int
    num_blocked: int
    slot: str
    device: str
    device_hours: float

    @property
    def utilisation(self) -> float:
        """Share of all slots' time in which lasting work was done; 0 where nothing ran."""
        return self._share(self.work_s)

    @property
    def lost_share(self) -> float:
        """Share of all slots' time spent on attempts that were lost."""
        return self._share(self.lost_s)

    @property
    def work_bound_s(self) -> float:
        """Seconds if no slot were ever idle: no order of the trials is quicker."""
        return self.work_s / self.num_slots

    @property
    def bound_s(self) -> float:
        """The larger, and so the better, of the two lower bounds."""
        return max(self.work_bound_s, self.chain_s)

    @property
    def ratio(self) -> float:
        """Makespan / the better lower bound; 1 where nothing ran."""
        return self.makespan_s / self.bound_s if self.bound_s else 1.0

    def _share(self, slot_s: float) -> float:
        total = self.makespan_s * self.num_slots
        return slot_s / total if total else 0.0


def figures_of(
    graph: TrialGraph, seconds: Mapping[str, float], schedule: Schedule, unit: Unit = GANG
) -> Figures:
    """Return a schedule's figures.

    Args:
        graph: All trials.
        seconds: How long each trial takes, as the simulation was told.
        schedule: What it came to.
        unit: What a slot is.
    """
    endings = Counter(attempt.ending for attempt in schedule.attempts)
    states = Counter(schedule.states.values())
    done = {attempt.key for attempt in schedule.attempts if attempt.ending == "done"}
    chain_s, chain = critical_path(graph, {key: seconds[key] for key in graph if key in done})
    return Figures(
        makespan_s=schedule.wall_s,
        num_slots=schedule.num_slots,
        num_trials=len(done),
        work_s=sum(one.slot_s for one in schedule.attempts if one.ending == "done"),
        lost_s=sum(one.slot_s for one in schedule.attempts if one.ending != "done"),
        chain_s=chain_s,
        chain=chain,
        num_attempts=len(schedule.attempts),
        num_failures=endings["failed"],
        num_preemptions=endings["preempted"],
        num_retries=schedule.num_retries,
        num_failed=states[TrialState.FAILED],
        num_blocked=states[TrialState.BLOCKED],
        slot=unit.name,
        device=unit.device,
        device_hours=sum(one.slot_s for one in schedule.attempts) * unit.num_devices / 3600,
    )


def critical_path(
    graph: TrialGraph, seconds: Mapping[str, float], order: Iterable[str] | None = None
) -> tuple[float, tuple[str, ...]]:
    """Return the length of the longest chain, and its trials from first to last.

    Args:
        graph: All trials.
        seconds: How long trials take; those that are absent take no time and are not in it.
        order: All keys, parents first; None = it is found.
    """
    ends: dict[str, float] = {}
    before: dict[str, str | None] = {}
    for key in graph.topological_order() if order is None else order:
        parents = graph.parents(key)
        last: str | None = parents[0] if parents else None
        if len(parents) > 1:
            last = max(parents, key=ends.__getitem__)
        before[key] = last
        ends[key] = seconds.get(key, 0.0) + (ends[last] if last else 0.0)
    at = max(ends, key=ends.__getitem__, default=None)
    return (ends[at] if at else 0.0), _back_from(at, before, seconds.keys())


def _back_from(
    at: str | None, before: Mapping[str, str | None], wanted: Collection[str]
) -> tuple[str, ...]:
    chain = []
    while at is not None:
        if at in wanted:
            chain.append(at)
        at = before[at]
    return tuple(reversed(chain))
