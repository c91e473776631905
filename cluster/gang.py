"""A gang: the processes that run one trial together, reserved whole and lost whole."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.attempts import AttemptFailure, ConnectFunction, ProgressPoint, TrialFunction
from cluster.calls import RankCalls, where
from cluster.nodes import draining_nodes
from cluster.rank import PROGRESS_GROUP, Rank, RankPlace
from cluster.resources import Strategy, device_of, rank_environment
from search_spaces.contracts import Compute, FailureClass, TrialRequest, TrialResult

_STACKS_TIMEOUT_S = 2.0  # a process that hangs within a library may not answer at all


@dataclass(frozen=True)
class GangPlan:
    """What every gang of an executor is made of.

    Attributes:
        compute: Ranks, and each rank's threads and GPUs.
        strategy: Whether the ranks must share one node.
        trial_function: What the ranks run; None = ``workers.trial.TrialRunner``.
        connect_function: How they find each other; None = ``workers.ranks.connect``.
    """

    compute: Compute
    strategy: Strategy
    trial_function: TrialFunction | None = None
    connect_function: ConnectFunction | None = None

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of one rank."""
        bundle: dict[str, float] = {"CPU": self.compute.num_threads}
        if self.compute.num_gpus_per_rank:
            bundle["GPU"] = self.compute.num_gpus_per_rank
        return bundle


class Gang:
    """One warm gang; starts by itself in the background and never blocks its caller."""

    def __init__(self, number: int, plan: GangPlan) -> None:
        """Ask Ray for the resources and the processes, all at once.

        Args:
            number: Unique within the session; names the gang and its ranks.
            plan: What the gang is made of.
        """
        self.name = f"gang {number}"
        self._plan = plan
        num_ranks = plan.compute.num_ranks
        self._group = placement_group(
            [plan.bundle] * num_ranks, strategy=plan.strategy, name=f"tickets-gang{number}"
        )
        self._reserved = self._group.ready()
        self._placed_at_s: float | None = None
        self._ranks = [self._create(number, rank) for rank in range(num_ranks)]
        self._places: list[RankPlace | None] = [None] * num_ranks
        self._first_resident_gib: list[float] = []
        address = self._ranks[0].address.remote()  # its own node decides, not the driver's
        self._calls = self._call([rank.connect.remote(address) for rank in self._ranks])
        self._is_connected = False

    @property
    def shape(self) -> Compute:
        """What the gang is made of."""
        return self._plan.compute

    @property
    def pending(self) -> list[ray.ObjectRef]:
        """Calls whose end may change the gang's state."""
        return self._calls.pending if self.is_placed else [self._reserved, *self._calls.pending]

    @property
    def failure(self) -> AttemptFailure | None:
        """Why the gang cannot go on, if it cannot."""
        return self._calls.failure

    @property
    def is_placed(self) -> bool:
        """Whether the resources are reserved: all of them, since Ray reserves no part of a gang."""
        return self._placed_at_s is not None

    @property
    def is_connected(self) -> bool:
        """Whether the gang has started and can run trials."""
        return self._is_connected

    @property
    def is_idle(self) -> bool:
        """Whether all ranks have answered the last call without a failure."""
        return self._calls.succeeded

    def start(self, request: TrialRequest) -> None:
        """Let all ranks run a trial together."""
        self._calls = self._call(
            [rank.run.options(name=request.label).remote(request) for rank in self._ranks]
        )

    def collect(self) -> None:
        """Take in what the ranks have answered; never blocks."""
        self._calls.collect()
        for rank, reply in self._calls.replies.items():
            self._places[rank] = reply.place
        if self._calls.succeeded and not self._is_connected:
            self._is_connected = True
        elif self._calls.succeeded and self.num_trials and not self._first_resident_gib:
            self._first_resident_gib = self._resident_gib
        if not self.is_placed and (self._is_connected or _has_ended(self._reserved)):
            self._placed_at_s = time.monotonic()

    @property
    def end(self) -> TrialResult | AttemptFailure:
        """How the last trial ended on rank 0; all ranks return the same result."""
        end = self._calls.replies[0].end
        assert end is not None, "asked before a trial has run"
        return end

    @property
    def num_trials(self) -> int:
        """Trials that the gang has finished."""
        return self._calls.replies[0].num_trials

    @property
    def memory_growth(self) -> float:
        """Largest memory of a rank now over what it held after its first trial."""
        pairs = zip(self._resident_gib, self._first_resident_gib, strict=True)
        return max(now / first for now, first in pairs)

    def ask_progress(self, attempt: str) -> ray.ObjectRef:
        """Ask rank 0 for a ``ProgressPoint``, which it answers while a trial runs."""
        method = self._ranks[0].progress.options(concurrency_group=PROGRESS_GROUP, name="progress")
        return method.remote(attempt)

    @property
    def places(self) -> str:
        """Each rank's process and log, for people."""
        return "; ".join(f"rank {rank}{where(place)}" for rank, place in enumerate(self._places))

    @property
    def node_ids(self) -> list[str]:
        """Nodes of the ranks, as far as they are known."""
        return [place.node_id for place in self._places if place]

    @property
    def is_leaving(self) -> bool:
        """Whether a node of it will soon be taken away, so that no other trial should start."""
        return not draining_nodes().isdisjoint(self.node_ids)

    def give_notice(self) -> None:
        """Tell all ranks that they will be taken away; never blocks."""
        for rank in self._ranks:
            rank.give_notice.options(concurrency_group=PROGRESS_GROUP).remote()

    def stacks(self) -> str:
        """Return what the ranks are doing; blocks for two seconds where one does not answer."""
        asked = [
            rank.stacks.options(concurrency_group=PROGRESS_GROUP).remote() for rank in self._ranks
        ]
        ray.wait(asked, num_returns=len(asked), timeout=_STACKS_TIMEOUT_S)
        return "\n".join(f"Rank {rank}: {_stack(ref)}" for rank, ref in enumerate(asked))

    def late_start(self, timeout_s: float) -> AttemptFailure | None:
        """Return the failure of a gang whose processes did not come up in time, if they did not.

        Time counts from the reservation of the resources: on a busy cluster, waiting for them is
        nobody's failure.
        """
        if self._is_connected or self._placed_at_s is None:
            return None
        if time.monotonic() - self._placed_at_s <= timeout_s:
            return None
        message = (
            f"{self.name.capitalize()} did not start within {timeout_s:g} s of getting its "
            "resources: its processes did not come up; see the logs of the Ray nodes."
        )
        return AttemptFailure(FailureClass.INFRASTRUCTURE, message)

    def kill(self) -> None:
        """End all ranks at once and free their resources; may be called twice."""
        for rank in self._ranks:
            ray.kill(rank, no_restart=True)
        remove_placement_group(self._group)

    @property
    def _resident_gib(self) -> list[float]:
        replies = self._calls.replies
        return [replies[rank].resident_gib for rank in sorted(replies)]

    def _call(self, refs: list[ray.ObjectRef]) -> RankCalls:
        return RankCalls(refs, self.name, self._places)

    def _create(self, number: int, rank: int) -> Any:
        plan, bundle = self._plan, self._plan.bundle
        actor_class = ray.remote(concurrency_groups={PROGRESS_GROUP: 1})(Rank)
        return actor_class.options(
            name=f"tickets-gang{number}-rank{rank}",
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            max_restarts=0,  # a restarted rank could not rejoin: the gang is replaced as a whole
            max_task_retries=0,
            runtime_env={"env_vars": rank_environment(plan.compute)},
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=rank
            ),
        ).remote(
            f"gang-{number}",
            rank,
            plan.compute.num_ranks,
            device_of(plan.compute),
            plan.trial_function,
            plan.connect_function,
        )


def _stack(ref: ray.ObjectRef) -> str:
    try:
        stack: str = ray.get(ref, timeout=0)
    except ray.exceptions.RayError as error:
        return f"does not answer ({type(error).__name__})"
    return f"\n{stack}"


def _has_ended(ref: ray.ObjectRef) -> bool:
    ended, _ = ray.wait([ref], timeout=0)
    return bool(ended)


def take_progress(ref: ray.ObjectRef) -> ProgressPoint | None:
    """Return the answer to ``ask_progress``, or None when the rank has died meanwhile."""
    try:
        point: ProgressPoint = ray.get(ref)
    except ray.exceptions.RayError:
        return None  # the trial's own call tells why
    return point
