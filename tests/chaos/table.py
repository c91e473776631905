"""Many schedules, and what a run of them says at its end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.checks import Verdict
from tests.chaos.enduring import Endured
from tests.chaos.schedules import KINDS, Kind, Schedule, schedule_of
from tests.chaos.world import world


@dataclass(frozen=True)
class Line:
    """How one schedule ended; ``endured`` is None where the sweep did not come to its end."""

    schedule: Schedule
    endured: Endured | None
    verdict: Verdict

    @property
    def text(self) -> str:
        """One line for people, and what is wrong below it."""
        head = f"seed {self.schedule.seed:3d}: {self.schedule.text}: "
        if self.verdict.is_good and self.endured:
            runs = f"{len(self.endured.codes)} run(s), {self.endured.seconds:.0f} s"
            return f"{head}survived, {len(self.endured.hits)} fault(s), {runs}"
        command = f"repeat it with: python -m tests.chaos --seed {self.schedule.seed}"
        return f"{head}FAILED\n{self.verdict.text}\n{command}"


def endured(root: Path, seeds: Sequence[int]) -> list[Line]:
    """Endure schedules one after the other, in a world of their own."""
    lines: list[Line] = []
    with world(Path(tempfile.mkdtemp(dir=root))) as shared:
        print(f"Undisturbed: {len(shared.quiet)} trials in {shared.quiet_s:.0f} s", flush=True)
        for seed in seeds:
            schedule = schedule_of(seed)
            lines.append(Line(schedule, *shared.endure(schedule)))
            print(lines[-1].text, flush=True)
    return lines


def table(lines: Sequence[Line]) -> str:
    """Return a table of all faults by kind."""
    head = ("fault", "injected", "survived", "trials lost", "trials run twice without reason")
    rows = [head, *(_row(kind, lines) for kind in KINDS)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    shown = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    seeds = ", ".join(str(line.schedule.seed) for line in lines)
    good = sum(line.verdict.is_good for line in lines)
    return "\n".join([*shown, f"{good} of {len(lines)} sweeps survived; seeds {seeds}"])


def _row(kind: Kind, lines: Iterable[Line]) -> tuple[str, ...]:
    """A fault in a schedule with another one is answerable for the whole sweep, as the other is."""
    injected = survived = lost = rerun = 0
    for line in lines:
        faults = line.schedule.faults
        if line.endured:
            faults = tuple(hit.fault for hit in line.endured.hits)
        number = sum(fault.kind == kind for fault in faults)
        injected += number
        survived += number * line.verdict.is_good
        lost += bool(number) * len(line.verdict.lost)
        rerun += bool(number) * len(line.verdict.rerun)
    return (kind, *(str(count) for count in (injected, survived, lost, rerun)))
