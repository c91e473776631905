"""Turn pydantic's errors into faults: the field as the user wrote it, and a plain sentence."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from search_spaces.errors import Fault, did_you_mean

Details = Mapping[str, Any]
_COMPLETED_RECIPE = re.compile(r"^(tasks\[\d+\]\.)?(search_)?recipe(?<!^recipe)")

_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "fields with values",
    "model_type": "fields with values",
    "model_attributes_type": "fields with values",
}
_LIMITS = {
    "greater_than": (">", "gt"),
    "greater_than_equal": (">=", "ge"),
    "less_than": ("<", "lt"),
    "less_than_equal": ("<=", "le"),
}


def faults_of(error: ValidationError, model: type[BaseModel], place: str) -> list[Fault]:
    """Return one fault for each of pydantic's errors.

    Args:
        error: What validation raised.
        model: The model that was validated; names the known fields.
        place: What was validated, for example ``sweep.yaml``.
    """
    faults = [_fault(details, model, place) for details in error.errors(include_url=False)]
    return list(dict.fromkeys(_without_echoes(faults)))


def _fault(details: Details, model: type[BaseModel], place: str) -> Fault:
    path, candidates = _walk(details["loc"], model)
    kind = details["type"]
    if kind.startswith("union_tag"):
        path = [*path, "kind"]
    problem, hint = _sentence(kind, details, candidates)
    return Fault(place, _dotted(path), problem, hint)


def _sentence(
    kind: str, details: Details, candidates: Sequence[type[BaseModel]]
) -> tuple[str, str]:
    given, context = details["input"], details.get("ctx", {})
    if kind in _LIMITS:
        sign, name = _LIMITS[kind]
        return f"is {given}, but must be {sign} {context[name]:g}.", ""
    if kind in _EXPECTED:
        return f"is {_shown(given)}, but must be {_EXPECTED[kind]}.", ""
    if kind in _SENTENCES:
        return _SENTENCES[kind](details, candidates)
    return f"is {_shown(given)}: {details['msg']}.", ""


def _missing(details: Details, candidates: Sequence[type[BaseModel]]) -> tuple[str, str]:
    return "is missing.", ""


def _unknown(details: Details, candidates: Sequence[type[BaseModel]]) -> tuple[str, str]:
    known = [name for model in candidates for name in model.model_fields]
    near = did_you_mean(str(details["loc"][-1]), known)
    return "is no known field.", near or f"Known: {', '.join(known)}."


def _own_check(details: Details, candidates: Sequence[type[BaseModel]]) -> tuple[str, str]:
    text = str(details["ctx"]["error"]).strip()
    return (text if text.endswith((".", "?")) else f"{text}."), ""


def _choice(details: Details, candidates: Sequence[type[BaseModel]]) -> tuple[str, str]:
    expected = details["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
    near = did_you_mean(str(details["input"]), expected.split(", "))
    return f"is {_shown(details['input'])}, but must be one of {expected}.", near


def _wrong_kind(details: Details, candidates: Sequence[type[BaseModel]]) -> tuple[str, str]:
    expected = details["ctx"]["expected_tags"].replace("'", "")
    near = did_you_mean(str(details["ctx"]["tag"]), expected.split(", "))
    return f"is '{details['ctx']['tag']}', but must be one of {expected}.", near


def _no_kind(details: Details, candidates: Sequence[type[BaseModel]]) -> tuple[str, str]:
    return f"is missing; it must be one of {', '.join(_tags(candidates))}.", ""


def _too_short(details: Details, candidates: Sequence[type[BaseModel]]) -> tuple[str, str]:
    return "is empty, but must have at least one entry.", ""


def _too_long(details: Details, candidates: Sequence[type[BaseModel]]) -> tuple[str, str]:
    given, most = len(details["input"]), details["ctx"]["max_length"]
    return f"has {given} characters, but must have at most {most}.", "Write a shorter one."


def _pattern(details: Details, candidates: Sequence[type[BaseModel]]) -> tuple[str, str]:
    given = _shown(details["input"])
    return f"is {given}, but must fit the pattern {details['ctx']['pattern']}.", ""


_SENTENCES: dict[str, Callable[[Details, Sequence[type[BaseModel]]], tuple[str, str]]] = {
    "missing": _missing,
    "extra_forbidden": _unknown,
    "value_error": _own_check,
    "literal_error": _choice,
    "union_tag_invalid": _wrong_kind,
    "union_tag_not_found": _no_kind,
    "too_short": _too_short,
    "string_too_short": _too_short,
    "string_too_long": _too_long,
    "string_pattern_mismatch": _pattern,
}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "fields with values"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _walk(
    loc: Sequence[int | str], model: type[BaseModel]
) -> tuple[list[int | str], list[type[BaseModel]]]:
    """Return the path as the user sees it, and the models that hold its last field.

    Pydantic puts the tag of a union into the path (``schedule.linear.rounds``), which no user
    wrote.
    """
    path: list[int | str] = []
    holders: list[type[BaseModel]] = [model]
    candidates = holders
    for part in loc:
        if isinstance(part, str) and len(candidates) > 1 and part in _tags(candidates):
            candidates = [model for model in candidates if part in _tags([model])]
            continue
        path.append(part)
        holders = candidates
        if isinstance(part, str):
            fields = [m.model_fields[part] for m in candidates if part in m.model_fields]
            candidates = [found for field in fields for found in _models_in(field.annotation)]
    is_union = len(candidates) > 1
    return path, candidates if is_union else holders


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _tags(models: Iterable[type[BaseModel]]) -> list[str]:
    return [model.model_fields["kind"].default for model in models if "kind" in model.model_fields]


def _dotted(path: Sequence[int | str]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _without_echoes(faults: Sequence[Fault]) -> list[Fault]:
    """Drop what only follows from another fault.

    A recipe's fault shows up again in the recipes completed from it; and a list whose entries
    are all faulty counts as empty.
    """
    fields = [fault.field for fault in faults]
    recipe = {
        (fault.field.removeprefix("recipe"), fault.problem)
        for fault in faults
        if fault.field.startswith("recipe.")
    }
    return [
        fault
        for fault in faults
        if not any(field.startswith(f"{fault.field}[") for field in fields)
        and (_COMPLETED_RECIPE.sub("", fault.field), fault.problem) not in recipe
    ]
