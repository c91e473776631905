"""Runs trials on warm gangs of a Ray cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import ray

from cluster.attempts import ConnectFunction, TrialFunction, check_gang
from cluster.board import HeadTable
from cluster.fleet import Fleet
from cluster.gang import Gang, GangPlan
from cluster.head import QUIET_S, end_stuck, is_stuck, lost_after_s, lost_text
from cluster.session import Session
from cluster.share import Share, Sharing
from cluster.slot import GangLife, Slot
from search_spaces.contracts import Compute, Outcome, Progress, TrialRequest
from search_spaces.errors import ClusterLostError

_MAX_PAUSE_S = 1.0  # between looks at deadlines, which no call's end announces
_REFILL_S = 2.0
_PATIENCE_S = 2.0  # resources that are there are given within a fraction of it
_ROUNDING = 1e-9


class RayExecutor:
    """An executor whose slots are gangs: placed whole, kept warm, replaced whole.

    Gangs start in the background when their first trial comes. On a busy cluster that can take
    long: the trial waits without failing, and another gang that is ready sooner runs it. A dead
    rank, or a trial that failed, costs its own gang and no other. While another sweep waits for
    the cluster, gangs beyond this one's share are given back, each when its trial has ended.

    Gangs may be of several sizes. While one waits for its resources, those of other sizes that
    run nothing are given back; where that does not suffice, no trial of another size is started
    until it has its place: it gets it at the latest when all that runs has ended.
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
        others: Sequence[Compute] = (),
    ) -> None:
        """Plan the gangs; none is started yet.

        Args:
            session: An entered session.
            compute: Shape of the gangs.
            num_gangs: Trials at once; None = as many as fit.
            life: How long gangs are kept.
            trial_function: What each rank runs; None = ``workers.trial.TrialRunner``.
            connect_function: How ranks join; None = ``workers.ranks.connect``.
            sharing: How much of the cluster it may have beside other sweeps.
            others: Further shapes of gangs, which some trials ask for.

        Raises:
            UserError: Not even one gang of some shape fits the cluster.
        """
        sharing = sharing or Sharing()
        self._session, self._grows = session, session.grows
        self._fleet = fleet = Fleet(
            [compute, *others], num_gangs, session.nodes, self._grows, sharing.max_gpus
        )
        self._where = session.description
        self._is_closed = False

        def new_gang(shape: Compute) -> Gang:
            plan = GangPlan(shape, fleet.strategy(shape), trial_function, connect_function)
            return Gang(session.new_gang_number(), plan)

        self._slots = [Slot(new_gang, life or GangLife()) for _ in range(fleet.num_slots)]
        self._share = Share(HeadTable(), sharing, look=self._count_room, guard=self._end_if_stuck)
        self._share.board.start()

    @property
    def num_slots(self) -> int:
        """Most gangs at once, of whatever size."""
        return len(self._slots)

    @property
    def description(self) -> str:
        """Where trials run, for people."""
        return f"{self._where}; {self.num_slots} gang(s) of {self._fleet.description}"

    def has_room(self, compute: Compute) -> bool:
        """Whether an attempt that asks for such a gang can be submitted now.

        Not where the gangs of all attempts would be more than the cluster holds, nor while one of
        another size has waited in vain for its resources.
        """
        shape = compute.with_micro_batch(None)
        taken = [slot.shape for slot in self._slots if not slot.is_free and slot.shape]
        if not self._fleet.fits([*taken, shape]):
            return False
        if not self._fleet.is_mixed:
            return True
        return self._head_answers and not any(slot.shape != shape for slot in self._late)

    def submit(self, request: TrialRequest) -> None:
        """Give an attempt to a gang, a warm one if there is; never blocks.

        Raises:
            RuntimeError: No slot is free, or the executor is closed.
            ValueError: The request asks for gangs of another shape.
        """
        if self._is_closed:
            raise RuntimeError("This executor is closed.")
        if not any(request.compute.same_gang(shape) for shape in self._fleet.shapes):
            check_gang(request, self._fleet.shapes[0])
        free = [slot for slot in self._slots if slot.is_free]
        if not free:
            raise RuntimeError(f"All {self.num_slots} slot(s) are taken: wait for an outcome.")
        slot = _best(free, request)
        if self._head_answers:
            slot.leave(self._share.board.draining)
        slot.submit(request)
        self._make_room()
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
            self._make_room()
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
        self._share.tell(_whole(self._seats(wanted)), _whole(self._seats(held)), self._room)
        spare = [slot for slot in self._slots if slot.is_spare and self._counts(slot)]
        spare.sort(key=lambda slot: (slot.is_placed, slot.since_s))
        excess = -self._openable
        for slot in spare if self._head_answers else ():
            if excess < _ROUNDING:
                return
            excess -= self._seats([slot])
            slot.give_back()

    def _hand_over(self) -> None:
        """Let gangs that are ready run what waits for other gangs, the longest wait first."""
        waiting = sorted((s for s in self._slots if s.is_waiting), key=lambda s: s.since_s)
        for source in waiting:
            ready = [slot for slot in self._slots if slot.is_ready and slot.shape == source.shape]
            if ready:
                request = source.withdraw()
                _best(ready, request).submit(request)

    def _make_room(self) -> None:
        """Give gangs that run nothing back for a larger or smaller one that waits, oldest first.

        As many as stand in its way by what the nodes have; one more with each look where it waits
        all the same, since they may lie scattered over the nodes.
        """
        waiting = {slot.shape for slot in self._slots if slot.is_waiting and not slot.is_placed}
        idle = [slot for slot in self._slots if slot.is_free and slot.has_gang]
        idle = [slot for slot in idle if slot.shape not in waiting]
        if not waiting or not idle or not self._head_answers:
            return
        idle.sort(key=lambda slot: (slot.is_placed, slot.since_s))
        num_scattered = min(1, len(self._late))
        while idle and (num_scattered or not self._fleet.fits(_shapes(self._slots))):
            idle.pop(0).release()
            num_scattered = 0

    def _open_gangs(self) -> None:
        """Ask for gangs for the attempts that have none, as far as the share goes."""
        without = [slot for slot in self._slots if slot.is_waiting and not slot.has_gang]
        without.sort(key=lambda slot: slot.since_s)
        openable = math.inf if self._grows else self._openable
        for slot in without if self._head_answers else ():
            openable -= self._seats([slot])
            if openable < -_ROUNDING:
                return
            slot.open()

    @property
    def _late(self) -> list[Slot]:
        """Attempts that have waited long for resources that the living nodes could give."""
        now_s = time.monotonic()
        waiting = (s for s in self._slots if s.is_waiting and not s.is_placed)
        late = (slot for slot in waiting if now_s - slot.since_s > _PATIENCE_S)
        return [slot for slot in late if slot.shape and self._fleet.has_nodes_for(slot.shape)]

    @property
    def _head_answers(self) -> bool:
        return self._share.board.silent_s < QUIET_S

    def _check_head(self) -> None:
        silent_s = self._share.board.silent_s
        if silent_s > lost_after_s():
            raise ClusterLostError(lost_text(self._where, silent_s))

    def _count_room(self) -> None:
        self._fleet.look(self._session.nodes)

    def _end_if_stuck(self) -> None:
        """Speak for a main thread that Ray holds."""
        silent_s = self._share.board.silent_s
        if is_stuck(silent_s):
            end_stuck(lost_text(self._where, silent_s))

    @property
    def _openable(self) -> float:
        """Seats that may be asked for beyond those that there are; negative = too many."""
        num_open = self._seats([slot for slot in self._slots if self._counts(slot)])
        return self._share.allowance(self.num_slots, _whole(num_open)) - num_open

    @property
    def _room(self) -> int:
        """How many seats the cluster has: as many as the largest of the present gangs."""
        return self._fleet.largest_room(_shapes(self._slots))

    def _seats(self, slots: Sequence[Slot]) -> float:
        """Return what gangs of some slots count beside other sweeps; an empty one is small."""
        shapes = [slot.shape or self._fleet.shapes[0] for slot in slots]
        return self._fleet.seats(shapes, self._room)

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

    Else the gang that has been idle longest, whose lineage is the least likely to come back; but
    a slot without a gang before one whose gang is of another size.
    """

    def place(slot: Slot) -> tuple[bool, bool, bool, bool, float]:
        serves, ran_parent = slot.serves(request), slot.has_run(request.spec.parents)
        is_ready = serves and slot.is_ready
        return is_ready, serves and ran_parent, serves, not slot.has_gang, -slot.since_s

    return max(slots, key=place)


def _shapes(slots: Sequence[Slot]) -> list[Compute]:
    """Return the shapes of the gangs that some slots have or wait for."""
    return [shape for slot in slots if (shape := slot.shape)]


def _whole(seats: float) -> int:
    return math.ceil(seats - _ROUNDING)
