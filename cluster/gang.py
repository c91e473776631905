"""A gang: the processes that run one trial together, reserved whole and lost whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.attempts import AttemptFailure, ConnectFunction, ProgressPoint, TrialFunction
from cluster.calls import RankCalls
from cluster.rank import PROGRESS_GROUP, Rank, RankPlace
from cluster.resources import Strategy, device_of, rank_environment
from search_spaces.contracts import Compute, FailureClass, TrialRequest, TrialResult


@dataclass(frozen=True)
class GangPlan:
    """What every gang of an executor is made of.

    Attributes:
        compute: Ranks, and each rank's threads and GPUs.
        strategy: Whether the ranks must share one node.
        trial_function: What the ranks run; None = ``workers.trial.run_trial``.
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
        self._ranks = [self._create(number, rank) for rank in range(num_ranks)]
        self._places: list[RankPlace | None] = [None] * num_ranks
        self._first_resident_gib: list[float] = []
        address = self._ranks[0].address.remote()  # its own node decides, not the driver's
        self._calls = self._call([rank.connect.remote(address) for rank in self._ranks])
        self._is_connected = False

    @property
    def pending(self) -> list[ray.ObjectRef]:
        """Calls whose end may change the gang's state."""
        return self._calls.pending

    @property
    def failure(self) -> AttemptFailure | None:
        """Why the gang cannot go on, if it cannot."""
        return self._calls.failure

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
        elif self._calls.succeeded and not self._first_resident_gib:
            self._first_resident_gib = self._resident_gib

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

    def late_start(self, after_s: float) -> AttemptFailure:
        """Return what to say of a gang that did not start in time."""
        reserved, _ = ray.wait([self._reserved], timeout=0)
        shape = f"{self._plan.compute.num_ranks} x {self._plan.bundle} ({self._plan.strategy})"
        problem = (
            "its processes did not come up; see the logs of the Ray nodes"
            if reserved
            else f"its resources, {shape}, did not become free; free now: {_free_resources()}"
        )
        message = f"{self.name.capitalize()} did not start within {after_s:g} s: {problem}."
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


def _free_resources() -> str:
    free = ray.available_resources()
    return f"{free.get('CPU', 0):g} CPU(s) and {free.get('GPU', 0):g} GPU(s)"


def take_progress(ref: ray.ObjectRef) -> ProgressPoint | None:
    """Return the answer to ``ask_progress``, or None when the rank has died meanwhile."""
    try:
        point: ProgressPoint = ray.get(ref)
    except ray.exceptions.RayError:
        return None  # the trial's own call tells why
    return point
