"""The markers of a store's trials as files: read, published once, withdrawn where damaged."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime

from orchestrator.markers import DamagedMarkerError, Marker, decode_marker, encode_marker
from orchestrator.storage import Storage
from search_spaces.canonical import KEY_LENGTH

COMMITTED = "COMMITTED.json"
EXTRA = re.compile(r"EXTRA-.*\.json")
KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
_log = logging.getLogger(__name__)


class MarkerFiles:
    """The markers in one storage; see `orchestrator.store` for where they lie.

    Args:
        storage: Has them.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read(self, key: str, name: str) -> Marker | None:
        """Return a marker; None where there is none, or a damaged one, which is withdrawn."""
        path = f"results/{key}/{name}"
        while (data := self._storage.read(path)) is not None:
            try:
                return decode_marker(data, key)
            except DamagedMarkerError as error:
                problem = f"{self._storage.shown(path)} is damaged: {error}"
            if self._storage.read(path) != data:
                continue  # another process has withdrawn it, and may have committed anew
            if name == COMMITTED:
                self._withdraw_extras(key, problem)
            self._withdraw(key, name, problem, judged=data)
        return None

    def publish(self, name: str, marker: Marker) -> bool:
        """Make a marker appear whole, unless one of its name is there; return whether it did."""
        path = f"results/{marker.result.trial_key}/{name}"
        return self._storage.publish_once(path, encode_marker(marker))

    def quarantine(self, key: str, reason: str) -> tuple[str, ...]:
        """Withdraw all markers of a trial; return where they are now."""
        # COMMITTED.json goes last: without it the others would add to the next result.
        moved = [*self._withdraw_extras(key, reason), self._withdraw(key, COMMITTED, reason)]
        return tuple(place for place in moved if place)

    def _withdraw_extras(self, key: str, reason: str) -> list[str]:
        names = [name for name in self._storage.names(f"results/{key}") if EXTRA.fullmatch(name)]
        return [self._withdraw(key, name, reason) for name in names]

    def _withdraw(self, key: str, name: str, reason: str, judged: bytes | None = None) -> str:
        """Move one marker away and say so; return its new place, or '' when it was not there.

        Args:
            key: The trial.
            name: The marker's file.
            reason: Why, for people.
            judged: What the file held when it was judged: one that holds something else was
                committed since, and is put back. None = whatever it holds has to go.
        """
        path = f"results/{key}/{name}"
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        place = f"quarantine/{key}/{stamp}-{name}"
        if not self._storage.move(path, place):
            return ""
        if judged is not None and (moved := self._storage.read(place)) not in (judged, None):
            self._storage.publish_once(path, moved)  # unless another one is there already
            self._storage.delete(place)
            return ""
        self._storage.publish_once(f"{place}.reason.txt", reason.encode())
        shown = self._storage.shown(place)
        _log.warning("%s. Withdrawn to %s: the trial counts as not run.", reason, shown)
        return shown


def require(pattern: re.Pattern[str], what: str, given: str) -> None:
    """Raise a ValueError unless a name is of a pattern."""
    if not pattern.fullmatch(given):
        raise ValueError(f"{given!r} is not allowed as {what}; it must match {pattern.pattern}")
