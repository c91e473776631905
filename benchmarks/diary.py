"""A diary of what processes do: a file to which each adds lines, on one clock for all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MEET_S = 60.0  # longest wait of a process for the others' start
_MET: set[str] = set()  # diaries that this process has written its arrival to


@dataclass(frozen=True)
class Interval:
    """One run of a trial in a process.

    Attributes:
        end_s: None where it never came to its end.
    """

    name: str
    pid: int
    begin_s: float
    end_s: float | None


class Diary:
    """A file to which processes add what they do; seconds are of one clock for all of them."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, event: str, name: str) -> None:
        """Add a line, whole even where several processes write."""
        line = f"{event} {name} {os.getpid()} {time.perf_counter():.6f}\n"
        with open(self.path, "a") as file:
            file.write(line)

    def meet(self, num_processes: int) -> None:
        """Wait, once in each process, until that many have come here.

        Trials shorter than a process's start would else all run in the first one, in Tune.
        """
        if self.path in _MET:
            return
        _MET.add(self.path)
        self.write("meet", "-")
        until_s = time.perf_counter() + MEET_S
        while time.perf_counter() < until_s and self._num_met() < num_processes:
            time.sleep(0.02)

    def _num_met(self) -> int:
        return len({line.split()[2] for line in self._lines() if line.startswith("meet ")})

    def _lines(self) -> list[str]:
        """Return the finished lines: somebody may be writing the last one."""
        path = Path(self.path)
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def intervals(self) -> list[Interval]:
        """Return every run, in the order of their beginnings."""
        ends: dict[tuple[str, int], list[float]] = {}
        begins: list[tuple[str, int, float]] = []
        for line in self._lines():
            event, name, pid, at = line.split()
            if event == "begin":
                begins.append((name, int(pid), float(at)))
            elif event == "end":
                ends.setdefault((name, int(pid)), []).append(float(at))
        return [
            Interval(
                name, pid, at, min((e for e in ends.get((name, pid), ()) if e > at), default=None)
            )
            for name, pid, at in sorted(begins, key=lambda begin: begin[2])
        ]


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least this share of all does not exceed."""
    found = sorted(values)
    return found[min(len(found) - 1, int(share * len(found)))]
