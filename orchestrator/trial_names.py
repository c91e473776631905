"""How people name trials in a command: a key's first characters, a label, or a pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from orchestrator.journal_reader import TrialRow
from search_spaces.canonical import short
from search_spaces.errors import Fault, SpecError, did_you_mean

GRAMMAR = (
    "First characters of a key, a label such as final:sst2:imp:0.3:s1, or a pattern of labels: "
    "'final:sst2:*', or 'mrpc/*' for all of a task."
)
NUM_SHOWN = 4
_KEY = re.compile(r"[0-9a-f]{1,64}")
_WILD = re.compile(r"[*?\[]")


def find_trials(place: str, rows: Sequence[TrialRow], names: Sequence[str]) -> list[TrialRow]:
    """Return the trials that any of the names means, in the order of the graph.

    Args:
        place: Named in faults: the sweep's file.
        rows: All trials of the sweep.
        names: See `GRAMMAR`.

    Raises:
        SpecError: Names that mean no trial, or that are no pattern and mean several; all at once.
    """
    found: set[str] = set()
    faults: list[Fault] = []
    for name in names:
        meant = _meant(rows, name)
        if not meant or (len(meant) > 1 and not _WILD.search(name)):
            faults.append(_fault(place, rows, name, meant))
        found |= {row.key for row in meant}
    if faults:
        raise SpecError(faults)
    return [row for row in rows if row.key in found]


def completions(rows: Sequence[TrialRow], begun: str) -> list[str]:
    """Return the labels that begin with what was typed."""
    return sorted({row.label for row in rows if row.label.startswith(begun)})


def _meant(rows: Sequence[TrialRow], name: str) -> list[TrialRow]:
    if _WILD.search(name):
        pattern = name.replace("/", ":")
        return [r for r in rows if any(fnmatchcase(text, pattern) for text in _texts(r.label))]
    exact = [row for row in rows if row.label == name]
    if exact or not _KEY.fullmatch(name):
        return exact
    return [row for row in rows if row.key.startswith(name)]


def _texts(label: str) -> tuple[str, str]:
    """Return a label, and the label without its kind."""
    return label, label.partition(":")[2]


def _fault(place: str, rows: Sequence[TrialRow], name: str, meant: Sequence[TrialRow]) -> Fault:
    if meant:
        some = ", ".join(f"{row.label} ({short(row.key)})" for row in meant[:NUM_SHOWN])
        more = f" and {len(meant) - NUM_SHOWN} more" if len(meant) > NUM_SHOWN else ""
        what = f"{len(meant)} trials are meant: {some}{more}."
        return Fault(place, f"'{name}'", what, "Type more of the key, or a pattern with '*'.")
    hint = did_you_mean(name, (row.label for row in rows))
    known = "'tickets status' lists keys and labels."
    return Fault(place, f"'{name}'", "no trial is meant.", f"{hint} {known}".strip())
