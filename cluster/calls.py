"""One call to every rank of a gang, followed until it is clear how it ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

import ray
from ray.exceptions import OutOfMemoryError

from cluster.attempts import AttemptFailure
from cluster.nodes import was_taken_away
from cluster.rank import RankPlace, RankReply
from search_spaces.contracts import FailureClass

PEER_GRACE_S = 3.0  # how long the others' explanations are awaited after one rank's failure
# When ranks fail differently, the most telling failure wins: an exception of one rank soon makes
# its peers lose their connection, not the other way round.
_MOST_TELLING = (
    FailureClass.USER_ERROR,
    FailureClass.OUT_OF_MEMORY,
    FailureClass.DIVERGED,
    FailureClass.ERROR,
    FailureClass.HANG,
    FailureClass.PREEMPTED,
    FailureClass.INFRASTRUCTURE,
)

# No lost peer looks like one of these; of its notice a rank tells before its node is gone.
_SURE = (*_MOST_TELLING[:3], FailureClass.PREEMPTED)


class RankCalls:
    """The same method called on every rank.

    A rank that died ends the call at once, and explains it unless another has told of a failure
    of its own: one whose memory ran out may take its peers' processes with it. A rank that only
    reports a failure ends the call when all have answered or, because its peers may now wait for
    it forever, after a grace.
    """

    def __init__(
        self, refs: Sequence[ray.ObjectRef], gang: str, places: Sequence[RankPlace | None]
    ) -> None:
        self._ranks = {ref: rank for rank, ref in enumerate(refs)}
        self._num_ranks = len(refs)
        self._gang = gang
        self._places = places
        self._death: AttemptFailure | None = None
        self._failures: list[AttemptFailure] = []
        self._failed_at_s = 0.0
        self.replies: dict[int, RankReply] = {}

    @property
    def pending(self) -> list[ray.ObjectRef]:
        """The calls that have not ended."""
        return list(self._ranks)

    @property
    def succeeded(self) -> bool:
        """Whether every rank has answered without a failure."""
        return len(self.replies) == self._num_ranks and not self._failures

    @property
    def failure(self) -> AttemptFailure | None:
        """Why the call failed, as soon as that is clear."""
        if self._death:
            told = (one for one in self._failures if one.failure in _SURE)
            return min((*told, self._death), key=_place)
        if not self._failures:
            return None
        if self._ranks and time.monotonic() < self._failed_at_s + PEER_GRACE_S:
            return None
        return min(self._failures, key=_place)

    def collect(self) -> None:
        """Take in the answers that have arrived; never blocks."""
        if not self._ranks:
            return
        ready, _ = ray.wait(self.pending, num_returns=len(self._ranks), timeout=0)
        for ref in ready:
            self._take(ref, self._ranks.pop(ref))

    def _take(self, ref: ray.ObjectRef, rank: int) -> None:
        try:
            reply: RankReply = ray.get(ref)
        except Exception as error:  # every exception is about the process: it reports its own
            self._death = self._death or explain_death(error, self._name(rank))
            return
        self.replies[rank] = reply
        if isinstance(reply.end, AttemptFailure):
            self._failed_at_s = self._failed_at_s or time.monotonic()
            self._failures.append(_with_log(reply.end, reply.place))

    def _name(self, rank: int) -> str:
        return f"rank {rank} of {self._gang}" + where(self._places[rank])


def _place(failure: AttemptFailure) -> int:
    return _MOST_TELLING.index(failure.failure)


def explain_death(error: BaseException, who: str) -> AttemptFailure:
    """Return what the loss of a process means for its attempt.

    Args:
        error: What Ray raised in place of the process's answer.
        who: The process and where its log is, for people.
    """
    if isinstance(error, OutOfMemoryError):
        message = f"Ray ended {who} because its node ran out of memory."
        return AttemptFailure(FailureClass.OUT_OF_MEMORY, message, str(error))
    subject = f"{who[0].upper()}{who[1:]}"
    if was_taken_away(error):
        message = f"{subject} was lost with its node, which was taken away: {_reason(error)}"
        return AttemptFailure(FailureClass.PREEMPTED, message, str(error))
    message = f"{subject} died: {_reason(error)}"
    return AttemptFailure(FailureClass.INFRASTRUCTURE, message, str(error))


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return reason.split(" Some common causes include")[0]  # the details have all of it


def where(place: RankPlace | None) -> str:
    """Return a rank's process and log in brackets; "" while they are not known."""
    if place is None:
        return ""
    return f" (process {place.pid} on {place.node_ip}, log {place.log_path or 'unknown'})"


def _with_log(failure: AttemptFailure, place: RankPlace) -> AttemptFailure:
    details = f"{failure.details.rstrip()}\nLog of{where(place)}"
    return AttemptFailure(failure.failure, failure.message, details)
