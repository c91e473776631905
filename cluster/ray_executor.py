"""Runs trials on warm gangs of a Ray cluster."""

from __future__ import annotations

import time

import ray

from cluster.attempts import ConnectFunction, TrialFunction, check_gang
from cluster.gang import Gang, GangPlan
from cluster.resources import plan_gangs
from cluster.session import Session
from cluster.slot import GangLife, Slot
from search_spaces.contracts import Compute, Outcome, Progress, TrialRequest

_MAX_PAUSE_S = 1.0  # between looks at deadlines, which no call's end announces


class RayExecutor:
    """An executor whose slots are gangs: placed whole, kept warm, replaced whole.

    Gangs start in the background when their first trial comes. On a busy cluster that can take
    long: the trial waits without failing, and another gang that is ready sooner runs it. A dead
    rank, or a trial that failed, costs its own gang and no other.
    """

    def __init__(
        self,
        session: Session,
        compute: Compute,
        num_gangs: int | None = None,
        life: GangLife | None = None,
        trial_function: TrialFunction | None = None,
        connect_function: ConnectFunction | None = None,
    ) -> None:
        """Plan the gangs; none is started yet.

        Args:
            session: An entered session.
            compute: Shape of each gang.
            num_gangs: Trials at once; None = as many as fit.
            life: How long gangs are kept.
            trial_function: What each rank runs; None = ``workers.trial.TrialRunner``.
            connect_function: How ranks join; None = ``workers.ranks.connect``.

        Raises:
            UserError: Not even one gang fits the cluster.
        """
        placement = plan_gangs(compute, num_gangs or "auto", session.nodes)
        plan = GangPlan(compute, placement.strategy, trial_function, connect_function)
        self._compute = compute
        self._where = session.description
        self._is_closed = False

        def new_gang() -> Gang:
            return Gang(session.new_gang_number(), plan)

        self._slots = [Slot(new_gang, life or GangLife()) for _ in range(placement.num_gangs)]

    @property
    def num_slots(self) -> int:
        """Number of gangs."""
        return len(self._slots)

    @property
    def description(self) -> str:
        """Where trials run, for people."""
        shape = f"{self._compute.num_ranks} rank(s) x {self._compute.num_threads} CPU(s)"
        if self._compute.num_gpus_per_rank:
            shape += f" + {self._compute.num_gpus_per_rank:g} GPU(s)"
        return f"{self._where}; {self.num_slots} gang(s) of {shape}"

    def submit(self, request: TrialRequest) -> None:
        """Give an attempt to a gang, a warm one if there is; never blocks.

        Raises:
            RuntimeError: No slot is free, or the executor is closed.
            ValueError: The request asks for gangs of another shape.
        """
        if self._is_closed:
            raise RuntimeError("This executor is closed.")
        check_gang(request, self._compute)
        free = [slot for slot in self._slots if slot.is_free]
        if not free:
            raise RuntimeError(f"All {self.num_slots} slot(s) are taken: wait for an outcome.")
        max(free, key=lambda slot: (slot.is_ready, slot.has_gang)).submit(request)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return the outcomes that are there, after at most ``timeout_s`` when there are none."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            outcomes = [outcome for slot in self._slots if (outcome := slot.poll())]
            self._hand_over()
            remaining_s = deadline_s - time.monotonic()
            if outcomes or remaining_s <= 0:
                return outcomes
            self._pause(min(remaining_s, _MAX_PAUSE_S))

    def progress(self) -> list[Progress]:
        """Return how far the running attempts are known to be; never blocks."""
        points = [slot.progress() for slot in self._slots]
        return [point for point in points if point]

    def cancel(self, trial_key: str) -> None:
        """Give up a trial's attempt, if there is one: its gang ends, and its resources are free."""
        for slot in self._slots:
            if slot.trial_key == trial_key:
                slot.release()

    def close(self) -> None:
        """End all gangs and what they run; may be called twice."""
        self._is_closed = True
        for slot in self._slots:
            slot.release()

    def _hand_over(self) -> None:
        """Let gangs that are ready run what waits for other gangs, the longest wait first."""
        waiting = sorted((s for s in self._slots if s.is_waiting), key=lambda s: s.since_s)
        ready = [slot for slot in self._slots if slot.is_ready]
        for source, target in zip(waiting, ready, strict=False):
            target.submit(source.withdraw())

    def _pause(self, timeout_s: float) -> None:
        pending = [ref for slot in self._slots for ref in slot.pending]
        if pending:
            ray.wait(pending, num_returns=1, timeout=timeout_s)
        else:
            time.sleep(timeout_s)
