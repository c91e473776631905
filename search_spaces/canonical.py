"""Identity is content: one canonical form, one hash.

Rules that keep old keys valid (docs/decisions/0001-identity-is-content.md): the form is tagged
with its type, keys are sorted, and a field that equals its default is left out, so that a new
field with a default changes no key.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from functools import cache
from json.encoder import encode_basestring_ascii
from typing import Any

from pydantic import BaseModel, ConfigDict

KEY_LENGTH = 64  # hexadecimal characters of a sha256
SHORT_KEY_LENGTH = 10  # what people see: unique among 100,000 trials with probability 0.995
_REQUIRED = object()  # stands for "has no default"
_PLAIN = (str, int, float, bool, type(None))
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)
_KEYS: dict[int, tuple[weakref.ref[Frozen], str]] = {}  # by the object's place in memory
_PARTS: dict[int, tuple[Frozen, str]] = {}  # the same; it holds them, so no place is reused
_MAX_PARTS = 1000


class Frozen(BaseModel):
    """Base of every specification: immutable, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def canonical_form(value: Any) -> Any:
    """Return the JSON-ready form of ``value`` that identity is computed from.

    Args:
        value: A ``Frozen`` object, or plain data made of dict, list, tuple, str, int, float, bool.

    Returns:
        Plain data; a ``Frozen`` object becomes a dict with its type's name under ``"type"`` and
        only the fields that differ from their defaults.
    """
    if isinstance(value, Frozen):
        form: dict[str, Any] = {"type": type(value).__name__}
        for name, default in _defaults(type(value)):
            item = getattr(value, name)
            if default is _REQUIRED or item != default:
                # Most fields are plain: calling itself for each would take half of all time.
                form[name] = item if type(item) in _PLAIN else canonical_form(item)
        return form
    if isinstance(value, dict):
        return {str(key): canonical_form(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [canonical_form(item) for item in value]
    return value


@cache
def _defaults(model: type[Frozen]) -> tuple[tuple[str, Any], ...]:
    """Return the sorted fields of a class with their defaults: asked once for each trial."""
    fields = model.model_fields
    return tuple(
        (
            name,
            _REQUIRED
            if fields[name].is_required()
            else fields[name].get_default(call_default_factory=True, validated_data={}),
        )
        for name in sorted(fields)
    )


def canonical_json(value: Any) -> str:
    """Return the canonical form as JSON without white space.

    The form of a ``Frozen`` object is written field by field, because its parts recur: all trials
    of a task share one model, task and recipe, and writing these was most of the time of a key.
    """
    if not isinstance(value, Frozen):
        return _ENCODER.encode(canonical_form(value))
    texts = {"type": _ENCODER.encode(type(value).__name__)}
    for name, default in _defaults(type(value)):
        item = getattr(value, name)
        if default is _REQUIRED or item != default:
            texts[name] = _part_json(item)
    return "{" + ",".join(f'"{name}":{texts[name]}' for name in sorted(texts)) + "}"


def _part_json(part: Any) -> str:
    """Return a field as JSON; of the latest ``Frozen`` objects it is remembered."""
    kind = type(part)  # JSON's own encoder would take longer to set up than to write a seed
    if kind is int:
        return str(part)
    if kind is str:
        return encode_basestring_ascii(part)
    if not isinstance(part, Frozen):
        return _ENCODER.encode(canonical_form(part))
    known = _PARTS.get(id(part))
    if known is not None:
        return known[1]
    text = canonical_json(part)
    if len(_PARTS) >= _MAX_PARTS:
        _PARTS.clear()
    _PARTS[id(part)] = part, text
    return text


def content_key(value: Any) -> str:
    """Return the sha256 (64 hexadecimal characters) of the canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def remembered_key(value: Frozen) -> str:
    """Return ``content_key(value)``, computed once in the life of this very object.

    It is remembered beside the object and not in it, where a changed copy would inherit it.
    """
    place = id(value)
    known = _KEYS.get(place)
    if known is not None and known[0]() is value:
        return known[1]
    key = content_key(value)
    _KEYS[place] = weakref.ref(value, lambda _: _KEYS.pop(place, None)), key
    return key


def short(key: str) -> str:
    """Return the first characters of a key, as people see it."""
    return key[:SHORT_KEY_LENGTH]
