"""A clock for one run of a driver: dates for people, and yet waits that nobody's clock can stretch.

A machine's wall clock may be set while a sweep runs. Were it set back by an hour, a driver that
went by it would not look for commands, give a sign of life or try a trial again for an hour.
"""

from __future__ import annotations

import sys
import time

from search_spaces.contracts import Clock


class SteadyClock:
    """Seconds since the epoch that never go back, and pass at least as fast as time does.

    A wall clock that is set forward is followed, so that dates stay right; one that is set back
    is not.

    Args:
        wall: Seconds since the epoch; may jump.
        elapsed: Seconds since some moment; never jumps.
    """

    def __init__(self, wall: Clock = time.time, elapsed: Clock | None = None) -> None:
        self._wall, self._elapsed = wall, elapsed or elapsed_s
        self._ahead_s = wall() - self._elapsed()

    def __call__(self) -> float:
        """Return the time."""
        elapsed = self._elapsed()
        self._ahead_s = max(self._ahead_s, self._wall() - elapsed)
        return elapsed + self._ahead_s


def elapsed_s() -> float:
    """Return seconds since some moment; they also pass while the machine sleeps, as on Linux."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
