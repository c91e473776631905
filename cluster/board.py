"""What a driver exchanges with the cluster's head while it runs: claims, and signs of life.

Drivers read each other's claims in the key-value table of the head: no process of its own that
could die. While the head does not answer there are no claims: everyone goes on as if alone.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from cluster.claims import Claim
from cluster.nodes import draining_nodes

BEAT_S = 1.0
STALE_S = 20.0  # a claim that is not renewed for so long is a dead driver's
_FORGET_S = 600.0
_JOIN_S = 2.0
_PREFIX = b"claims/"
_NAMESPACE = b"tickets"


class Table(Protocol):
    """A table of bytes that all drivers of a cluster see, at its head."""

    def ask(self) -> None:
        """Return when the head has answered; raise anything where it does not."""

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row."""

    def delete(self, key: bytes) -> None:
        """Remove a row, if it is there."""

    def rows(self, prefix: bytes) -> Mapping[bytes, bytes]:
        """Return the rows whose keys begin so."""

    def draining(self) -> set[str]:
        """Return the ids of the nodes that will soon be taken away."""


class HeadTable:
    """The table that Ray's head keeps; lives as long as the head, or as its storage."""

    def __init__(self) -> None:
        from ray.experimental import internal_kv

        self._client = internal_kv.internal_kv_get_gcs_client()

    def ask(self) -> None:
        """Return when the head has answered; raise anything where it does not."""
        self._client.internal_kv_exists(_PREFIX, _NAMESPACE, timeout=BEAT_S)

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row."""
        self._client.internal_kv_put(key, value, True, _NAMESPACE, timeout=BEAT_S)

    def delete(self, key: bytes) -> None:
        """Remove a row, if it is there."""
        self._client.internal_kv_del(key, False, _NAMESPACE, timeout=BEAT_S)

    def rows(self, prefix: bytes) -> Mapping[bytes, bytes]:
        """Return the rows whose keys begin so."""
        keys = self._client.internal_kv_keys(prefix, _NAMESPACE, timeout=BEAT_S)
        found: Mapping[bytes, bytes] = self._client.internal_kv_multi_get(
            keys, _NAMESPACE, timeout=BEAT_S
        )
        return found

    def draining(self) -> set[str]:
        """Return the ids of the nodes that will soon be taken away."""
        return draining_nodes()


class Board:
    """Keeps one driver's claim before the others' eyes, and theirs at hand; never blocks.

    A claim counts while its beat goes on. That is timed by the reader's own clock, so that clocks
    of different machines need not agree.
    """

    def __init__(
        self,
        table: Table,
        driver: str,
        clock: Callable[[], float] = time.monotonic,
        look: Callable[[], None] = lambda: None,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; nothing happens before ``start``.

        Args:
            table: Seen by all drivers.
            driver: Unique name of this one.
            clock: Monotonic seconds.
            look: Called in each beat, to ask the head for more; may hang while it is silent.
            guard: Called once a second beside the beats, even while one hangs.
        """
        self._table = table
        self._key = _PREFIX + driver.encode()
        self._clock = clock
        self._look = look
        self._guard = guard
        self._claim: Claim | None = None
        self._num_beats = 0
        self._seen: dict[bytes, tuple[int, float]] = {}  # beat, and when it was first seen
        self._others: tuple[Claim, ...] = ()  # replaced as a whole: readers need no lock
        self._draining: set[str] = set()
        self._unanswered_since_s: float | None = None
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for work, name in ((self._run, "tickets-board"), (self._watch, "tickets-head"))
        ]

    def start(self) -> None:
        """Begin to exchange claims in the background."""
        for thread in self._threads:
            thread.start()

    def tell(self, claim: Claim) -> None:
        """Let the others know this soon."""
        self._claim = claim

    @property
    def others(self) -> tuple[Claim, ...]:
        """The claims of the other living drivers, as of the last beat."""
        return self._others

    @property
    def draining(self) -> set[str]:
        """The nodes that will soon be taken away, as of the last beat."""
        return self._draining

    @property
    def silent_s(self) -> float:
        """Seconds for which the head has owed an answer.

        Not the age of the last one: a driver that was suspended has not asked either.
        """
        since_s = self._unanswered_since_s
        return 0.0 if since_s is None else self._clock() - since_s

    def beat(self) -> None:
        """Write the own claim and read the others'; a table that fails has none."""
        if self._unanswered_since_s is None:
            self._unanswered_since_s = self._clock()
        try:
            self._table.ask()
        except Exception:  # Ray has many
            self._others = ()
            return
        try:
            self._others = self._exchange()
            self._draining = self._table.draining()
            self._look()
        except Exception:  # without a table there is no sharing, and nothing else is missing
            self._others = ()
        self._unanswered_since_s = None

    def close(self) -> None:
        """Take the claim back; may be called twice. Waits a little for the threads."""
        self._ended.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_JOIN_S)

    def _run(self) -> None:
        self.beat()
        while not self._ended.wait(BEAT_S):
            self.beat()
        try:
            self._table.delete(self._key)
        except Exception:  # it goes stale instead
            return

    def _watch(self) -> None:
        while not self._ended.wait(BEAT_S):
            self._guard()

    def _exchange(self) -> tuple[Claim, ...]:
        if self._claim is not None:
            self._num_beats += 1
            row = {"beat": self._num_beats, **asdict(self._claim)}
            self._table.put(self._key, json.dumps(row).encode())
        rows = dict(self._table.rows(_PREFIX))
        rows.pop(self._key, None)
        self._seen = {key: seen for key, seen in self._seen.items() if key in rows}
        claims = [self._read(key, value) for key, value in sorted(rows.items())]
        return tuple(claim for claim in claims if claim)

    def _read(self, key: bytes, value: bytes) -> Claim | None:
        """Return a row's claim; None where its driver is dead or of another version."""
        try:
            row: dict[str, Any] = json.loads(value)
            beat = int(row.pop("beat"))
            claim = Claim(**row)
            if not claim.is_sound:
                return None
        except (ValueError, TypeError, KeyError):
            return None
        now_s = self._clock()
        known = self._seen.get(key)
        if known is None or known[0] != beat:
            self._seen[key] = beat, now_s
            return claim
        age_s = now_s - known[1]
        if age_s > _FORGET_S:
            self._table.delete(key)
        return claim if age_s <= STALE_S else None
