"""What a record says of time: only while something ran, whatever died."""

from __future__ import annotations

import pytest

from benchmarks.record import busy_s
from orchestrator.journal_reader import EventRow

EVENTS = {
    "two at once": ([(0, "a", "started"), (4, "b", "started"), (6, "a", "succeeded")], 0),
    "and ended": (
        [(0, "a", "started"), (4, "b", "started"), (6, "a", "succeeded"), (9, "b", "failed")],
        9,
    ),
    "stopped and taken up": (
        [(0, "a", "started"), (5, "a", "cancelled"), (900, "a", "started"), (907, "a", "failed")],
        12,
    ),
    "the process died": (
        [
            (0, "a", "started"),
            (3, "b", "started"),
            (900, "", "rebuilt"),
            (900, "a", "interrupted"),
            (900, "b", "interrupted"),
            (901, "a", "started"),
            (905, "a", "succeeded"),
        ],
        7,
    ),
    "an old attempt answers": (
        [(0, "a", "started"), (2, "a", "refused"), (8, "a", "succeeded")],
        8,
    ),
    "another sweep's": ([(0, "x", "started"), (8, "x", "succeeded")], 0),
}


@pytest.mark.parametrize("name", EVENTS)
def test_only_time_in_which_something_ran_counts(name: str) -> None:
    events, seconds = EVENTS[name]
    rows = [EventRow(number, at, key, kind, {}) for number, (at, key, kind) in enumerate(events)]
    assert busy_s(rows, {"a", "b"}) == seconds
