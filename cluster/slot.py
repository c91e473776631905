"""One place for a running trial: its gang, what the gang runs, and when the gang is replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import ray

from cluster.attempts import AttemptFailure, ProgressPoint, outcome_of
from cluster.gang import Gang, take_progress
from cluster.nodes import with_lost_nodes
from cluster.watchdog import Watchdog
from search_spaces.contracts import Compute, Outcome, Progress, TrialRequest
from search_spaces.run_specs import HangLimits

_LOOK_EVERY_S = 5.0  # at a running attempt's progress, unless its limits are shorter
_DEFAULT_LIMITS = HangLimits()
_WAITING = ProgressPoint("waiting for resources")
_WAITING_FOR_OTHERS = ProgressPoint("waiting while another sweep has its turn")


@dataclass(frozen=True)
class GangLife:
    """How long a gang is kept.

    Attributes:
        start_timeout_s: Time for the processes to come up once their resources are reserved;
            then the attempt fails.
        recycle_after_trials: Trials after which the processes are replaced.
        max_memory_growth: Factor over the memory after the first trial, likewise.
        idle_release_s: Time without a trial after which the resources are given back.
        hang_limits: Time without progress after which a trial is ended with its gang.
    """

    start_timeout_s: float = 600.0
    recycle_after_trials: int = 200
    max_memory_growth: float = 2.0
    idle_release_s: float = 300.0
    hang_limits: HangLimits = _DEFAULT_LIMITS


class Slot:
    """Runs at most one attempt at a time on a gang that outlives the attempt."""

    def __init__(self, new_gang: Callable[[Compute], Gang], life: GangLife) -> None:
        self._new_gang = new_gang
        self._life = life
        self._gang: Gang | None = None
        self._ran: set[str] = set()
        self._request: TrialRequest | None = None
        self._shape: Compute | None = None
        self._is_started = False
        self._since_s = 0.0
        self._progress_ref: ray.ObjectRef | None = None
        self._point = ProgressPoint()
        self._asked_at_s = self._looked_at_s = 0.0
        self._is_told = False
        self._watchdog = Watchdog(life.hang_limits, 0.0)

    @property
    def is_free(self) -> bool:
        """Whether an attempt can be submitted."""
        return self._request is None

    @property
    def trial_key(self) -> str | None:
        """The trial whose attempt it has; None while it is free."""
        return self._request.spec.key if self._request else None

    @property
    def shape(self) -> Compute | None:
        """Shape of the gang that its attempt needs or, in a free slot, of the gang that it has."""
        return self._shape if self._request or self._gang else None

    @property
    def has_gang(self) -> bool:
        """Whether the slot has a gang, though it may still wait for its resources."""
        return self._gang is not None

    @property
    def is_placed(self) -> bool:
        """Whether the slot's gang has its resources."""
        return self._gang is not None and self._gang.is_placed

    @property
    def is_spare(self) -> bool:
        """Whether the gang can be given back at no trial's cost."""
        return self.has_gang and (self.is_free or not self.is_placed)

    @property
    def is_ready(self) -> bool:
        """Whether an attempt would start at once."""
        return self.is_free and self._gang is not None and self._gang.is_idle

    @property
    def is_waiting(self) -> bool:
        """Whether an attempt waits for the gang, so that another slot may have it."""
        return self._request is not None and not self._is_started

    @property
    def since_s(self) -> float:
        """When the attempt was submitted or, in a free slot, when the last one left."""
        return self._since_s

    @property
    def pending(self) -> list[ray.ObjectRef]:
        """Calls whose end is worth a poll."""
        return self._gang.pending if self._gang else []

    def serves(self, request: TrialRequest) -> bool:
        """Whether the slot has a gang of the shape that an attempt asks for."""
        return self._gang is not None and self._gang.shape.same_gang(request.compute)

    def has_run(self, trial_keys: Iterable[str]) -> bool:
        """Whether one of these trials ran on the gang that there is now."""
        return not self._ran.isdisjoint(trial_keys)

    def submit(self, request: TrialRequest) -> None:
        """Run an attempt as soon as there is a gang; never blocks, and asks for none.

        A gang of another shape is given back.
        """
        assert self.is_free
        if not self.serves(request):
            self.release()
        self._request, self._is_started = request, False
        self._shape = request.compute.with_micro_batch(None)
        self._since_s = time.monotonic()
        self._point, self._progress_ref = ProgressPoint(), None
        if self._gang and self._gang.is_idle:
            self._start(self._gang, request)

    def leave(self, node_ids: set[str]) -> None:
        """End a ready gang that has a rank on one of these nodes."""
        if self.is_ready and self._gang and not node_ids.isdisjoint(self._gang.node_ids):
            self.release()

    def open(self) -> None:
        """Ask for a gang if there is none; never blocks."""
        if self._gang is None:
            assert self._shape, "a slot opens its gang for an attempt"
            self._gang = self._new_gang(self._shape)
            self._ran = set()

    def withdraw(self) -> TrialRequest:
        """Take the waiting attempt back; the gang goes on waiting for the next one."""
        request, self._request = self._request, None
        assert request is not None and not self._is_started
        self._since_s = time.monotonic()
        return request

    def poll(self, may_end: bool = True) -> Outcome | None:
        """Take the next steps that are possible and return the attempt's outcome, if any.

        Args:
            may_end: Whether gangs may be ended: not while the cluster's head does not answer,
                which would hold up the caller.
        """
        gang, request = self._gang, self._request
        if gang is None:
            return None
        gang.collect()
        end = gang.failure or gang.late_start(self._life.start_timeout_s)
        if request is None:
            is_old = time.monotonic() - self._since_s > self._life.idle_release_s
            if may_end and (end or is_old):
                self.release()
            return None
        if end is not None:
            return self._lose(gang, request, end) if may_end else None
        if gang.is_idle and not self._is_started:
            self._start(gang, request)
        elif gang.is_idle:
            return self._finish(gang, request, may_end)
        return self._watch(gang, request) if may_end and self._is_started else None

    def progress(self) -> Progress | None:
        """Return how far the running attempt is known to be, and ask anew; never blocks."""
        if self._request is None:
            return None
        if self._gang is None:
            return _WAITING_FOR_OTHERS.of_trial(self._request.spec.key)
        if not self._gang.is_placed:
            return _WAITING.of_trial(self._request.spec.key)
        self._ask(self._gang, self._request)
        return self._point.of_trial(self._request.spec.key)

    def give_back(self) -> None:
        """End a spare gang; an attempt that waits goes on waiting, without one."""
        assert self.is_spare
        request = self._request
        self.release()
        self._request = request

    def forget(self) -> None:
        """Let go of the gang without ending it, which needs a head that answers."""
        self._gang, self._request, self._progress_ref = None, None, None

    def release(self) -> None:
        """End the gang and whatever it runs."""
        gang, self._gang, self._request = self._gang, None, None
        if gang:
            gang.kill()

    def _start(self, gang: Gang, request: TrialRequest) -> None:
        gang.start(request)
        self._ran.add(request.spec.key)
        self._is_started, self._is_told = True, False
        self._asked_at_s = self._looked_at_s = now_s = time.monotonic()
        self._watchdog = Watchdog(self._life.hang_limits, now_s)

    def _ask(self, gang: Gang, request: TrialRequest) -> None:
        """Take in rank 0's last answer and ask for the next; never blocks."""
        if self._progress_ref and ray.wait([self._progress_ref], timeout=0)[0]:
            self._point = take_progress(self._progress_ref) or self._point
            self._progress_ref = None
        if self._is_started and self._progress_ref is None:
            self._progress_ref = gang.ask_progress(request.attempt)
            self._asked_at_s = time.monotonic()

    def _watch(self, gang: Gang, request: TrialRequest) -> Outcome | None:
        """End an attempt that makes no progress within its phase's limit."""
        self._tell_of_drain(gang)
        shortest_s = min(limit for _, limit in self._life.hang_limits)
        if time.monotonic() - self._asked_at_s > min(_LOOK_EVERY_S, shortest_s / 4):
            self._ask(gang, request)
        stall = self._watchdog.look(self._point, time.monotonic())
        if stall is None:
            return None
        return self._give_up(request, stall.failure(gang.name, gang.places, gang.stacks()))

    def _lose(self, gang: Gang, request: TrialRequest, end: AttemptFailure) -> Outcome:
        return self._give_up(request, with_lost_nodes(end, gang.node_ids))

    def _tell_of_drain(self, gang: Gang) -> None:
        """Tell a gang once, while there is time, that a node of it will be taken away."""
        now_s = time.monotonic()
        if self._is_told or now_s - self._looked_at_s < _LOOK_EVERY_S:
            return
        self._looked_at_s = now_s
        if gang.is_leaving:
            self._is_told = True
            gang.give_notice()

    def _give_up(self, request: TrialRequest, end: AttemptFailure) -> Outcome:
        self.release()
        return outcome_of(request, end)

    def _finish(self, gang: Gang, request: TrialRequest, may_end: bool) -> Outcome:
        outcome = outcome_of(request, gang.end)
        self._request, self._since_s = None, time.monotonic()
        is_old = gang.num_trials >= self._life.recycle_after_trials
        if may_end and (is_old or gang.memory_growth > self._life.max_memory_growth):
            self.release()
        return outcome
