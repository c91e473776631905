"""A look at a whole store that changes nothing: what counts in it, what does not, and why."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime

from orchestrator.markers import DamagedMarkerError, Marker, decode_marker
from orchestrator.storage import Storage
from search_spaces.errors import UserError


@dataclass
class StoreSurvey:
    """What lies in a store.

    Attributes:
        committed: Keys of the trials with a whole marker.
        damaged: Markers that are damaged, as ``<key>/<name>: <problem>``.
        foreign: Markers of another version, in the same form.
        num_open: Attempts that no marker names: interrupted, refused, or running now.
        open_bytes: Of their files.
        checkpoint_bytes: Of the checkpoints of trials, by key.
        num_quarantined: Trials with withdrawn markers.
        latest: The latest time of a commit, by its committer's clock; None when there is none.
        num_unseen: Trials that there was no time for.
    """

    committed: set[str] = field(default_factory=set)
    damaged: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    num_open: int = 0
    open_bytes: int = 0
    checkpoint_bytes: dict[str, int] = field(default_factory=dict)
    num_quarantined: int = 0
    latest: datetime | None = None
    num_unseen: int = 0


def survey(uri: str, patience_s: float) -> StoreSurvey:
    """Look at every trial of a store, as far as the time suffices.

    Args:
        uri: The store.
        patience_s: Seconds after which the rest is only counted.

    Raises:
        UserError: The store cannot be read.
    """
    storage, found = Storage(uri), StoreSurvey()
    until = time.monotonic() + patience_s
    keys = storage.names("results")
    found.num_quarantined = len(storage.names("quarantine"))
    for number, key in enumerate(keys):
        if time.monotonic() > until:
            found.num_unseen = len(keys) - number
            break
        _look(storage, key, found)
    return found


def _look(storage: Storage, key: str, found: StoreSurvey) -> None:
    """Add one trial to what is found."""
    attempts: defaultdict[str, int] = defaultdict(int)
    named: set[str] = set()
    for path, num_bytes in storage.files(f"results/{key}"):
        first, _, rest = path.partition("/")
        if first == "attempts":
            attempts[rest.partition("/")[0]] += num_bytes
        elif first == "checkpoint":
            known = found.checkpoint_bytes.get(key, 0)
            found.checkpoint_bytes[key] = known + num_bytes
        elif first.endswith(".json") and (marker := _marker(storage, key, first, found)):
            named.add(marker.result.attempt)
            if first == "COMMITTED.json":
                found.committed.add(key)
    left = {name: size for name, size in attempts.items() if name not in named}
    found.num_open += len(left)
    found.open_bytes += sum(left.values())


def _marker(storage: Storage, key: str, name: str, found: StoreSurvey) -> Marker | None:
    try:
        marker = decode_marker(storage.read(f"results/{key}/{name}") or b"", key)
    except DamagedMarkerError as error:
        found.damaged.append(f"{key}/{name}: {error}")
        return None
    except UserError as error:
        found.foreign.append(f"{key}/{name}: {error}")
        return None
    stamp = _time(marker.committed_at)
    if stamp and (found.latest is None or stamp > found.latest):
        found.latest = stamp
    return marker


def _time(text: str) -> datetime | None:
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        return None
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
