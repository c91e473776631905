"""Runs trials on warm gangs of a Ray cluster."""

from __future__ import annotations

import time

import ray

from cluster.attempts import ConnectFunction, TrialFunction, check_gang
from cluster.board import HeadTable
from cluster.gang import Gang, GangPlan
from cluster.head import QUIET_S, end_stuck, is_stuck, lost_after_s, lost_text
from cluster.resources import num_room, plan_gangs
from cluster.session import Session
from cluster.share import Share, Sharing
from cluster.slot import GangLife, Slot
from search_spaces.contracts import Compute, Outcome, Progress, TrialRequest
from search_spaces.errors import ClusterLostError

_MAX_PAUSE_S = 1.0  # between looks at deadlines, which no call's end announces
_REFILL_S = 2.0
_SECOND_LOOK_S = 2.0


class RayExecutor:
    """An executor whose slots are gangs: placed whole, kept warm, replaced whole.

    Gangs start in the background when their first trial comes. On a busy cluster that can take
    long: the trial waits without failing, and another gang that is ready sooner runs it. A dead
    rank, or a trial that failed, costs its own gang and no other. While another sweep waits for
    the cluster, gangs beyond this one's share are given back, each when its trial has ended.
    """

    def __init__(
        self,
        session: Session,
        compute: Compute,
        num_gangs: int | None = None,
        life: GangLife | None = None,
        trial_function: TrialFunction | None = None,
        connect_function: ConnectFunction | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        """Plan the gangs; none is started yet.

        Args:
            session: An entered session.
            compute: Shape of each gang.
            num_gangs: Trials at once; None = as many as fit.
            life: How long gangs are kept.
            trial_function: What each rank runs; None = ``workers.trial.TrialRunner``.
            connect_function: How ranks join; None = ``workers.ranks.connect``.
            sharing: How much of the cluster it may have beside other sweeps.

        Raises:
            UserError: Not even one gang fits the cluster.
        """
        sharing = sharing or Sharing()
        self._session, self._grows = session, session.grows
        placement = plan_gangs(compute, num_gangs or "auto", session.nodes, self._grows)
        plan = GangPlan(compute, placement.strategy, trial_function, connect_function)
        self._compute = compute
        self._where = session.description
        self._is_closed = False

        def new_gang() -> Gang:
            return Gang(session.new_gang_number(), plan)

        num_slots = min(placement.num_gangs, sharing.max_gangs or placement.num_gangs)
        self._slots = [Slot(new_gang, life or GangLife()) for _ in range(num_slots)]
        self._room = num_room(compute, session.nodes)
        self._share = Share(HeadTable(), sharing, look=self._count_room, guard=self._end_if_stuck)
        self._share.board.start()

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
        slot = _best(free, request)
        if self._head_answers:
            slot.leave(self._share.board.draining)
        slot.submit(request)
        self._open_gangs()

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return the outcomes that are there, after at most ``timeout_s`` when there are none.

        Raises:
            ClusterLostError: The cluster's head has gone for good.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            may_end = self._head_answers
            outcomes = [outcome for slot in self._slots if (outcome := slot.poll(may_end))]
            self._give_way()
            self._hand_over()
            self._open_gangs()
            if not outcomes:
                self._check_head()
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
            if self._head_answers:
                slot.release()
            else:
                slot.forget()
        self._share.board.close()

    def _give_way(self) -> None:
        """Give back gangs beyond this sweep's share: those that run nothing, the oldest first."""
        now_s = time.monotonic()
        # The driver refills a slot at once: until it has had the time, the gang is still wanted.
        wanted = [s for s in self._slots if not s.is_free or now_s - s.since_s < _REFILL_S]
        held = [slot for slot in self._slots if slot.is_placed]
        self._share.tell(len(wanted), len(held), self._room)
        spare = [slot for slot in self._slots if slot.is_spare and self._counts(slot)]
        spare.sort(key=lambda slot: (slot.is_placed, slot.since_s))
        if self._head_answers:
            for slot in spare[: max(0, -self._num_openable)]:
                slot.give_back()

    def _hand_over(self) -> None:
        """Let gangs that are ready run what waits for other gangs, the longest wait first."""
        waiting = sorted((s for s in self._slots if s.is_waiting), key=lambda s: s.since_s)
        for source in waiting:
            ready = [slot for slot in self._slots if slot.is_ready]
            if not ready:
                return
            request = source.withdraw()
            _best(ready, request).submit(request)

    def _open_gangs(self) -> None:
        """Ask for gangs for the attempts that have none, as far as the share goes."""
        without = [slot for slot in self._slots if slot.is_waiting and not slot.has_gang]
        without.sort(key=lambda slot: slot.since_s)
        num = len(without) if self._grows else max(0, self._num_openable)
        if self._head_answers:
            for slot in without[:num]:
                slot.open()

    @property
    def _head_answers(self) -> bool:
        return self._share.board.silent_s < QUIET_S

    def _check_head(self) -> None:
        silent_s = self._share.board.silent_s
        if silent_s > lost_after_s():
            raise ClusterLostError(lost_text(self._where, silent_s))

    def _count_room(self) -> None:
        self._room = num_room(self._compute, self._session.nodes)

    def _end_if_stuck(self) -> None:
        """Speak for a main thread that Ray holds."""
        silent_s = self._share.board.silent_s
        if is_stuck(silent_s):
            end_stuck(lost_text(self._where, silent_s))

    @property
    def _num_openable(self) -> int:
        """Gangs that may be asked for beyond those that there are; negative = too many."""
        num_open = sum(self._counts(slot) for slot in self._slots)
        return self._share.allowance(self.num_slots, num_open) - num_open

    def _counts(self, slot: Slot) -> bool:
        """Whether a slot's gang counts: where nodes may come, one without resources is demand."""
        return slot.is_placed if self._grows else slot.has_gang

    def _pause(self, timeout_s: float) -> None:
        pending = [ref for slot in self._slots for ref in slot.pending]
        if pending:
            ray.wait(pending, num_returns=1, timeout=timeout_s)
        else:
            time.sleep(timeout_s)


def _best(slots: list[Slot], request: TrialRequest) -> Slot:
    """Return the slot that should run an attempt: ready, then where a parent ran, then warm.

    Else the gang that has been idle longest, whose lineage is the least likely to come back.
    """

    def place(slot: Slot) -> tuple[bool, bool, bool, float]:
        ran_parent = slot.has_run(request.spec.parents)
        return slot.is_ready, ran_parent, slot.has_gang, -slot.since_s

    return max(slots, key=place)
