"""Which ready trials come first, and which retries still wait: heaps that forget lazily.

What is withdrawn stays in its heap until it comes up there, so that nothing costs time in
proportion to all trials.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

_Offer = tuple[float, int, str]  # of a ready trial: minus its chain, place in the order, key


class ReadyQueue:
    """The trials that may start, the longest chain first, then by their place in the order."""

    def __init__(self) -> None:
        self._offered: dict[str, _Offer] = {}
        self._heap: list[_Offer] = []  # holds withdrawn offers too

    def __contains__(self, key: str) -> bool:
        return key in self._offered

    def offer(self, key: str, chain: float, place: int) -> None:
        """Add a trial, or move it to where its chain now belongs."""
        offer = (-chain, place, key)
        self._offered[key] = offer
        heapq.heappush(self._heap, offer)

    def withdraw(self, key: str) -> None:
        """Take a trial out; nothing happens when it is not there."""
        self._offered.pop(key, None)

    def all(self) -> list[str]:
        """Return every trial, most urgent first."""
        return [key for _, _, key in sorted(self._offered.values())]

    def most_urgent(self, limit: int) -> list[str]:
        """Return at most ``limit`` trials, in time that does not grow with all of them."""
        found: list[_Offer] = []
        while self._heap and len(found) < limit:
            offer = heapq.heappop(self._heap)
            if self._offered.get(offer[2]) is offer:  # else withdrawn, perhaps made anew
                found.append(offer)
        for offer in found:
            heapq.heappush(self._heap, offer)
        return [key for _, _, key in found]


class Delays:
    """The trials whose next attempt waits until a time; seconds since the epoch."""

    def __init__(self) -> None:
        self._not_before: dict[str, float] = {}
        self._heap: list[tuple[float, int, str]] = []  # holds what was dropped too

    def __contains__(self, key: str) -> bool:
        return key in self._not_before

    def put(self, key: str, not_before: float, place: int) -> None:
        """Let a trial wait; of several at one time the first in the order is due first."""
        self._not_before[key] = not_before
        heapq.heappush(self._heap, (not_before, place, key))

    def drop(self, key: str) -> None:
        """Forget a trial; nothing happens when it does not wait."""
        self._not_before.pop(key, None)

    def due(self, now: float) -> Iterator[str]:
        """Yield and forget every trial whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            not_before, _, key = heapq.heappop(self._heap)
            if self._not_before.get(key) == not_before:  # else dropped meanwhile
                del self._not_before[key]
                yield key

    def next_in(self, now: float) -> float | None:
        """Return the seconds until the next trial is due; None = none waits."""
        while self._heap and self._not_before.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return max(0.0, self._heap[0][0] - now) if self._heap else None
