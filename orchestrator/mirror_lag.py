"""How far MLflow is behind a sweep: a small file beside the journal, for whoever watches."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.report_text import show_seconds


@dataclass(frozen=True)
class MirrorLag:
    """What the mirror of a sweep last wrote down.

    Attributes:
        at: When; seconds since 1970, as all times here.
        num_mirrored: Trials whose runs are in MLflow.
        num_behind: Committed trials whose runs are not there yet.
        oldest_at: When the first of those was committed; None where MLflow is up to date.
        failing_since: When MLflow began to fail; None while it works.
    """

    at: float
    num_mirrored: int
    num_behind: int
    oldest_at: float | None = None
    failing_since: float | None = None

    def behind_s(self, now: float) -> float:
        """Return for how many seconds a committed trial has been waiting for its run."""
        return 0.0 if self.oldest_at is None else max(0.0, now - self.oldest_at)

    def fields(self, now: float) -> dict[str, float | int | None]:
        """Return it for programs."""
        return {**asdict(self), "behind_s": self.behind_s(now)}


def lag_path(journal_path: Path) -> Path:
    """Return where the lag of a sweep's mirror is written down."""
    return journal_path.with_name(f"{journal_path.name}.mirror.json")


def write_lag(path: Path, lag: MirrorLag) -> None:
    """Write it down, whole or not at all; where that fails only the display lacks a number."""
    new = path.with_name(f"{path.name}.new")
    with contextlib.suppress(OSError):
        new.write_text(json.dumps(asdict(lag)), encoding="utf-8")
        os.replace(new, path)


def read_lag(path: Path) -> MirrorLag | None:
    """Return what was written down last; None where nothing readable is."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return MirrorLag(**{name: said[name] for name in MirrorLag.__annotations__})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describe_lag(lag: MirrorLag | None, now: float, num_committed: int = 0) -> str:
    """Return a lag as one sentence; "" where nothing is known of it.

    Args:
        lag: As it was last written down: a driver that was killed may have committed more since.
        now: Seconds since 1970.
        num_committed: Trials that the journal has as committed, where that is known.
    """
    if lag is None:
        return ""
    if num_committed > lag.num_mirrored + lag.num_behind:
        return (
            f"MLflow had {lag.num_mirrored} of the {num_committed} committed trials when it was "
            "last written down; a run, or 'tickets sync', brings it up to date."
        )
    if not lag.num_behind:
        return f"MLflow has all {lag.num_mirrored} committed trials."
    waiting = f"MLflow is {lag.num_behind} trial(s) and {show_seconds(lag.behind_s(now))} behind"
    if lag.failing_since is None:
        return f"{waiting}."
    return (
        f"{waiting}; it has been failing for {show_seconds(max(0.0, now - lag.failing_since))}. "
        "It is tried again; 'tickets sync' brings it up to date at any time."
    )
