"""Faults in what a user wrote, gathered so that all of them are shown at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and how to mend it.

    Attributes:
        place: File or object that holds the fault, for example ``sweep.yaml``.
        field: Path of the field, for example ``tasks[0].name``; empty for the whole place.
        problem: What was given and what is allowed, in one sentence.
        hint: The next step, in one sentence; empty when the problem already says it.
    """

    place: str
    field: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        """Return ``place: field: problem. hint`` on one line."""
        where = f"{self.place}: {self.field}" if self.field else self.place
        return f"{where}: {self.problem}" + (f" {self.hint}" if self.hint else "")


class UserError(Exception):
    """Something that the user can mend; the command ends with its exit code and no traceback."""

    exit_code = 2


class LostError(UserError):
    """Cluster or store are away, for longer than a run waits; the same command goes on later.

    Its exit code is ``EX_TEMPFAIL`` of sysexits.h: whoever supervises the command may repeat it.
    """

    exit_code = 75


class ClusterLostError(LostError):
    """The cluster's head has gone for good, so that nothing of it can be asked or ended."""


class StoreLostError(LostError):
    """The store has not answered for as long as a run waits for it."""


class StoreAwayError(LostError):
    """The store does not answer, but may again in a moment; nothing has been done to it."""


class SpecError(UserError):
    """One or more faults in a sweep, a task's data or a model.

    Attributes:
        faults: Every fault found, in the order of the file.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Fault, ...]]]:
        """Keep the faults when the error travels between processes."""
        return type(self), (self.faults,)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ``Did you mean 'x'?`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else ""
