"""Examples of one split, and the checks that every cell of a data file must pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.errors import Fault, did_you_mean

MAX_FAULTS_PER_SPLIT = 10  # a wrong label column would otherwise fill the screen


@dataclass(frozen=True)
class Examples:
    """Examples of one split, in the order of the file.

    Attributes:
        texts: First or only text of each example.
        pairs: Second text, or None for single sentences.
        labels: Class indices, or scores of a regression.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[int] | list[float]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> Examples:
        """Return the examples at ``indices``, in their order."""
        labels: list[Any] = [self.labels[index] for index in indices]
        pairs = None if self.pairs is None else [self.pairs[index] for index in indices]
        return Examples([self.texts[index] for index in indices], pairs, labels)


@dataclass(frozen=True)
class RawSplit:
    """Columns of one split before their values are checked; ``place`` names it in faults."""

    place: str
    texts: list[Any]
    pairs: list[Any] | None
    labels: list[Any]


def finite_number(value: Any) -> float:
    """Return a label as a number; raises ValueError or TypeError when it is none."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: None, an empty string or NaN."""
    return value is None or value == "" or value != value  # NaN is unequal to itself


def checked_examples(
    raw: RawSplit, values: tuple[Any, ...], base: Callable[[Any], Any], faults: list[Fault]
) -> Examples:
    """Return a split with its labels as numbers.

    Args:
        raw: The split's columns.
        values: Stored values of the classes in index order; () for a regression.
        base: Turns a stored label into a value of ``values``, or into the score.
        faults: What is wrong is appended here, at most ``MAX_FAULTS_PER_SPLIT`` one by one.
    """
    found = [Fault(raw.place, "", problem) for problem in _text_problems(raw)]
    labels: list[Any] = []
    indices = {value: index for index, value in enumerate(values)}
    try:
        # The fast path: one pass without a function call for each row's checks.
        labels = [indices[base(v)] for v in raw.labels] if indices else list(map(base, raw.labels))
    except (KeyError, ValueError, TypeError):
        found += _label_faults(raw, indices, base)
    hidden = len(found) - MAX_FAULTS_PER_SPLIT
    faults += found[:MAX_FAULTS_PER_SPLIT]
    if hidden > 0:
        faults.append(Fault(raw.place, "", f"has {hidden} more faults like these."))
    return Examples(raw.texts, raw.pairs, labels)


def _text_problems(raw: RawSplit) -> list[str]:
    problems = []
    for name, values in (("text", raw.texts), ("second text", raw.pairs or [])):
        for row, value in enumerate(values, 1):
            if not isinstance(value, str):
                given = "empty" if is_empty(value) else repr(value)
                problems.append(f"row {row}: the {name} is {given}, but must be text.")
    return problems


def _label_faults(
    raw: RawSplit, indices: dict[Any, int], base: Callable[[Any], Any]
) -> list[Fault]:
    faults = []
    for row, value in enumerate(raw.labels, 1):
        if problem := _label_problem(value, indices, base):
            hint = did_you_mean(str(value), [str(known) for known in indices])
            faults.append(Fault(raw.place, "", f"row {row}: {problem}.", hint))
    return faults


def _label_problem(value: Any, indices: dict[Any, int], base: Callable[[Any], Any]) -> str:
    if is_empty(value):
        return "the label is empty"
    if indices:
        known = ", ".join(str(name) for name in list(indices)[:10])
        return (
            "" if base(value) in indices else f"the label is '{value}', but must be one of {known}"
        )
    try:
        base(value)
    except (ValueError, TypeError):
        return f"the label is '{value}', but a regression needs a finite number"
    return ""
