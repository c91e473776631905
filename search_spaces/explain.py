"""Say why two trials have different keys."""

from __future__ import annotations

from typing import Any

from search_spaces.trial import TrialSpec

ABSENT = "-"  # shown where one of the two has no such field


def explain_difference(first: TrialSpec, second: TrialSpec) -> list[tuple[str, Any, Any]]:
    """Return ``(field, value in first, value in second)`` of every field that differs.

    Fields are dotted paths, for example ``recipe.learning_rate``, in the order of ``TrialSpec``.
    The list is empty exactly when the keys are equal.
    """
    left, right = _flat(first.model_dump(), ""), _flat(second.model_dump(), "")
    return [
        (path, left.get(path, ABSENT), right.get(path, ABSENT))
        for path in dict.fromkeys([*left, *right])
        if left.get(path, ABSENT) != right.get(path, ABSENT)
    ]


def _flat(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flat(item, f"{path}.{name}" if path else name)
    return flat
