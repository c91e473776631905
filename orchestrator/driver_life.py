"""Whether a sweep is being driven now, as far as its journal and this machine can tell."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.journal_lock import has_ended

SILENT_S = 30.0  # heartbeats come every 5 s

LifeState = Literal["alive", "silent", "ended", "died"]


@dataclass(frozen=True)
class DriverLife:
    """The last process that drove a sweep.

    Attributes:
        state: ``ended`` of its own accord; ``died`` without a word; ``silent``: it may be either
            alive or dead, but has given no sign of life for a while; or ``alive``.
        heartbeat_age_s: Seconds since its last sign of life.
    """

    state: LifeState
    pid: int
    host: str
    heartbeat_age_s: float

    @property
    def may_run(self) -> bool:
        """Whether it may take a command out of the inbox."""
        return self.state in ("alive", "silent")

    @property
    def is_on_this_host(self) -> bool:
        """Whether it can be signalled from here."""
        return self.host == socket.gethostname() and self.pid != os.getpid()

    @property
    def text(self) -> str:
        """The same for people."""
        who = f"process {self.pid} on {self.host}"
        match self.state:
            case "alive":
                return f"driven by {who}, last sign of life {self.heartbeat_age_s:.0f} s ago"
            case "silent":
                return (
                    f"{who} has given no sign of life for {self.heartbeat_age_s:.0f} s: it starts, "
                    "hangs or is gone"
                )
            case "ended":
                return f"not running; {who} has ended"
            case "died":
                return f"not running; {who} is gone and has not ended the sweep"


def driver_life(meta: Mapping[str, str], journal_path: Path, now: float) -> DriverLife:
    """Return how the last driver of a sweep is.

    Args:
        meta: What the journal says of the sweep.
        journal_path: Its path; the lock lies beside it.
        now: Seconds since the epoch.
    """
    age_s = max(0.0, now - float(meta["heartbeat"]))
    return DriverLife(_state(meta, journal_path, age_s), int(meta["pid"]), meta["host"], age_s)


def store_away_s(meta: Mapping[str, str], life: DriverLife, now: float) -> float | None:
    """Return for how many seconds a sweep's store has not answered its driver; None = it does.

    Args:
        meta: What the journal says of the sweep.
        life: How its last driver is: one that has ended waits for nothing.
        now: Seconds since the epoch.
    """
    since = json.loads(meta.get("vitals", "{}")).get("store_away_since")
    return max(0.0, now - float(since)) if since is not None and life.may_run else None


def away_line(meta: Mapping[str, str], journal_path: Path, now: float) -> str:
    """Return in one sentence that a sweep's store does not answer; "" where it does."""
    away_s = store_away_s(meta, driver_life(meta, journal_path, now), now)
    return "" if away_s is None else describe_away(away_s)


def describe_away(away_s: float) -> str:
    """Return in one sentence that the store does not answer."""
    return (
        f"The store has not answered for {away_s:.0f} s: results wait for it, and nothing new "
        "starts until it does."
    )


def _state(meta: Mapping[str, str], journal_path: Path, age_s: float) -> LifeState:
    if float(meta.get("ended_at", "-inf")) >= float(meta["started_at"]):
        return "ended"
    if has_ended(journal_path):
        return "died"
    return "silent" if age_s > SILENT_S else "alive"
