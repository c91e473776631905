"""How a trial tells how it gets on: its steps, and the seconds of each phase."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from search_spaces.contracts import Reporter


class StepReports:
    """Reports every step, though the loss is read at few: who watches sees each as progress."""

    def __init__(self, reporter: Reporter, num_steps: int, loss: float = 0.0) -> None:
        """Begin; ``loss`` is the last that is known, of a training that goes on."""
        self._reporter, self._num_steps, self._loss = reporter, num_steps, loss

    def read(self, step: int, loss: float) -> None:
        """A step's loss has been read."""
        self._loss = loss
        self.taken(step)

    def taken(self, step: int) -> None:
        """A step has been taken."""
        self._reporter.step(step, self._num_steps, self._loss)


class Stopwatch:
    """Seconds of each phase, told to the reporter as they begin."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._seconds: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._begun = self._since = time.perf_counter()
        self._phase = ""
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds")

    def phase(self, name: str) -> None:
        """Begin a phase."""
        self._close()
        self._phase = name
        self._reporter.phase(name)

    def add(self, name: str, seconds: float) -> None:
        """Count seconds that another process spent in a phase before, there and in total."""
        self._before[name] = seconds

    def stop(self) -> dict[str, float]:
        """Return the seconds of every phase and in total."""
        self._close()
        total = time.perf_counter() - self._begun
        for name, seconds in self._before.items():
            self._seconds[name] = round(self._seconds[name] + seconds, 3)
        return {**self._seconds, "total": round(total + sum(self._before.values()), 3)}

    def _close(self) -> None:
        now = time.perf_counter()
        if self._phase:
            self._seconds[self._phase] = round(now - self._since, 3)
        self._since = now
