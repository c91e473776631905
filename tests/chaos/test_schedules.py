"""Schedules repeat, cover every kind, and their judge finds what is wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from orchestrator.journal_reader import EventRow
from tests.chaos.__main__ import NUM_SCHEDULES
from tests.chaos.checks import Verdict, unexplained
from tests.chaos.enduring import Endured, Hit
from tests.chaos.schedules import KINDS, Fault, Kind, Schedule, schedule_of
from tests.chaos.table import Line, table

KEY = "a" * 64


def fault(kind: Kind) -> Fault:
    return Fault(kind, num_events=1, delay_s=0.5, outage_s=1.0, pick=0)


def events(*kinds: str, step_s: float = 10.0) -> list[EventRow]:
    """Entries of one trial, one every ten seconds."""
    return [EventRow(n, n * step_s, KEY, kind, {}) for n, kind in enumerate(kinds, 1)]


def test_a_seed_is_a_schedule() -> None:
    """The same seed gives the same faults; the seeds of a whole run give each kind four times."""
    schedules = [schedule_of(seed) for seed in range(NUM_SCHEDULES)]
    assert schedules == [schedule_of(seed) for seed in range(NUM_SCHEDULES)]
    firsts = Counter(schedule.faults[0].kind for schedule in schedules)
    assert firsts == dict.fromkeys(KINDS, NUM_SCHEDULES // len(KINDS))


def test_an_attempt_more_needs_a_fault_that_can_end_attempts() -> None:
    """A killed rank explains one, a killed MLflow none, and a fault at another time none."""
    twice = events("started", "failed", "started", "succeeded")
    told = "aaaaaaaaaa: attempt 1 was followed by another without reason"
    assert list(unexplained(twice, [Hit(fault("rank"), at=15)])) == []
    assert list(unexplained(twice, [Hit(fault("mlflow"), at=15)])) == [told]
    assert list(unexplained(twice, [Hit(fault("rank"), at=35)])) == [told]
    thrice = events("started", "failed", "started", "failed", "started", "succeeded")
    (left,) = unexplained(thrice, [Hit(fault("rank"), at=15)])
    assert "attempt 2 was followed" in left
    assert list(unexplained(thrice, [Hit(fault("driver"), at=35), Hit(fault("rank"), at=15)])) == []


def test_what_is_done_may_not_start_again() -> None:
    """Whatever died meanwhile."""
    rows = events("started", "succeeded", "started", "succeeded")
    (told,) = unexplained(rows, [Hit(fault("driver"), at=15)])
    assert told == "aaaaaaaaaa was started again after it was done"


def test_the_table_counts_by_kind_and_says_how_to_repeat(tmp_path: Path) -> None:
    """A fault that came too late is not counted; a failure names its seed."""
    both = Schedule(7, (fault("driver"), fault("rank")))
    good = Endured(tmp_path / "a.yaml", both, [Hit(fault("driver"), 1.0)], [-9, 0])
    bad = Endured(tmp_path / "b.yaml", both, [Hit(fault("rank"), 1.0)], [0])
    lines = [
        Line(both, good, Verdict((), (), ())),
        Line(both, bad, Verdict(("x",), ("y was rerun",), ())),
    ]
    assert "survived, 1 fault(s), 2 run(s)" in lines[0].text
    assert lines[1].text.endswith("repeat it with: python -m tests.chaos --seed 7")
    rows = [row.split() for row in table(lines).splitlines()]
    assert rows[1] == ["driver", "1", "1", "0", "0"]
    assert rows[2] == ["rank", "1", "0", "1", "1"]
    assert table(lines).endswith("1 of 2 sweeps survived; seeds 7, 7")
