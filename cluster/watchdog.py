"""Notices an attempt that is alive but gets no further."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.attempts import AttemptFailure, ProgressPoint
from search_spaces.contracts import FailureClass
from search_spaces.run_specs import HangLimits

# Two looks further apart count as this: while the one who looks is itself suspended or busy, he
# does not see the progress that there may be.
MAX_COUNTED_S = 15.0


@dataclass(frozen=True)
class Stall:
    """An attempt's last progress, and how long that was ago.

    Attributes:
        point: The last that was heard of it.
        idle_s: Seconds since then.
        limit_s: Seconds that its phase may take without progress.
    """

    point: ProgressPoint
    idle_s: float
    limit_s: float

    @property
    def text(self) -> str:
        """The stall in half a sentence, and the field that sets its limit."""
        point = self.point
        steps = f" at step {point.step} of {point.num_steps}" if point.num_steps else ""
        return (
            f"has made no progress for {self.idle_s:.0f} s in phase {point.phase}{steps} "
            f"(limit: {self.limit_s:g} s, retries.hang_after_s.{point.phase})"
        )

    def failure(self, who: str, places: str, stacks: str) -> AttemptFailure:
        """Return what it means for the attempt.

        Args:
            who: What ran it, for people.
            places: Its processes and their logs.
            stacks: What each process was doing.
        """
        message = (
            f"{who[0].upper()}{who[1:]} {self.text} and was ended. See the end of its log: "
            f"{places}. Look for a store or a network that does not answer, or for ranks that wait "
            "for each other; if the work is just slow, raise the limit."
        )
        return AttemptFailure(FailureClass.HANG, message, stacks)


class Watchdog:
    """Counts the seconds without progress of one attempt."""

    def __init__(self, limits: HangLimits, now_s: float) -> None:
        """Begin to count.

        Args:
            limits: By phase.
            now_s: Of a monotonic clock.
        """
        self._limits = limits
        self._point = ProgressPoint()
        self._looked_at_s = now_s
        self._idle_s = 0.0

    def look(self, point: ProgressPoint, now_s: float) -> Stall | None:
        """Take in the newest point, and return the stall if the limit of its phase has passed."""
        elapsed_s = min(now_s - self._looked_at_s, MAX_COUNTED_S)
        self._idle_s = self._idle_s + elapsed_s if point == self._point else 0.0
        self._point, self._looked_at_s = point, now_s
        limit_s = self._limits.of(point.phase)
        return Stall(point, self._idle_s, limit_s) if self._idle_s > limit_s else None
