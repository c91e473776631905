"""Patience with a store that does not answer: the sweep goes on without it for a while.

What needs the store is left alone between tries and done again, as a whole, with each of them; an
answer that cannot be committed yet is kept. Only a store that may work again of its own is waited
for: see `search_spaces.outages`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from search_spaces.contracts import Clock
from search_spaces.errors import StoreAwayError, StoreLostError
from search_spaces.outages import LIMIT_S, Pauses

_LOOK_EVERY_S = 0.5
_IN_BETWEEN = (
    "The sweep goes on: what runs goes on, and results are kept and committed once the store "
    "answers."
)
_AT_THE_END = "All trials have ended; what is left of the run follows once the store answers."
T = TypeVar("T")


class StorePatience:
    """Knows whether the store is to be asked now, and when it has not answered for too long.

    The driver asks in rounds: after the first failure of a round nothing more of it is tried, and
    the store answers again when a whole round has gone well.

    Args:
        clock: Seconds since the epoch.
        say: Tells people one sentence.
        limit_s: How long it is waited for.
        meanwhile: What people are told of the sweep.

    Attributes:
        away_since: When it failed first; None while it answers.
    """

    def __init__(
        self,
        clock: Clock,
        say: Callable[[str], None],
        limit_s: float = LIMIT_S,
        meanwhile: str = _IN_BETWEEN,
    ) -> None:
        self._clock, self._say, self._limit_s, self._meanwhile = clock, say, limit_s, meanwhile
        self._pauses, self._try_at = Pauses(), -math.inf
        self.away_since: float | None = None
        self.is_asking = True

    def begin_round(self) -> None:
        """Find out whether the store is asked in this round."""
        self.is_asking = self._clock() >= self._try_at

    def ask(self, action: Callable[[], None]) -> None:
        """Do what needs the store, unless that is left alone in this round.

        Args:
            action: May be done again from its beginning wherever it ends by a StoreAwayError.

        Raises:
            StoreLostError: The store has not answered for too long.
        """
        if not self.is_asking:
            return
        try:
            action()
        except StoreAwayError as error:
            self.is_asking = False
            self._wait_for_it(error)

    def wait_s(self, most_s: float, wakeup_s: float | None) -> float:
        """Return how long the driver waits for its executor.

        Args:
            most_s: The longest.
            wakeup_s: Until a retry is due, which is not started while the store is left alone.
        """
        return most_s if wakeup_s is None or not self.is_asking else min(most_s, wakeup_s)

    def ask_at_last(self, action: Callable[[], None]) -> None:
        """Do what needs the store a last time: the sweep ends, whatever comes of it."""
        try:
            action()
        except StoreAwayError as error:
            self._say(f"{error} What could not be committed is run again by the next run.")

    def end_round(self) -> None:
        """Take note that the store answers, if it was asked and did."""
        if self.is_asking and self.away_since is not None:
            self._say(f"The store answers again after {self._away_s():.0f} s.")
            self._pauses, self.away_since = Pauses(), None

    def _wait_for_it(self, error: StoreAwayError) -> None:
        if self.away_since is None:
            self.away_since = self._clock()
            if self._limit_s > 0:
                self._say(f"{error} {self._meanwhile} It is waited for {self._limit_s:g} s.")
        if self._away_s() >= self._limit_s:
            raise StoreLostError(
                f"{error} It has not answered for {self._away_s():.0f} s (retries.store_s). What "
                "is committed is safe: run the same command again once the store answers."
            ) from error
        left_s = self._limit_s - self._away_s()
        self._try_at = self._clock() + min(self._pauses.next_s(), left_s)

    def _away_s(self) -> float:
        return 0.0 if self.away_since is None else self._clock() - self.away_since


def at_the_end(
    action: Callable[[], T],
    say: Callable[[str], None],
    limit_s: float,
    clock: Clock = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return what an action finds in the store of a sweep whose trials have ended.

    Args:
        action: May be done again from its beginning.
        say: Told that the store is waited for.
        limit_s: How long it is.
        clock: Seconds since any moment.
        sleep: Waits for some seconds.

    Raises:
        StoreLostError: The store has not answered for too long.
    """
    patience = StorePatience(clock, say, limit_s, _AT_THE_END)
    found: list[T] = []
    while True:
        patience.begin_round()
        patience.ask(lambda: found.append(action()))
        patience.end_round()
        if found:
            return found[0]
        sleep(_LOOK_EVERY_S)
