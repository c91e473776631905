"""Markers: the small files that make a result count, and that know their own hash."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from search_spaces.canonical import Frozen
from search_spaces.contracts import TrialResult
from search_spaces.errors import UserError
from search_spaces.trial import TrialSpec

MARKER_SCHEMA = 1
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # no folder, nothing hidden


class DamagedMarkerError(Exception):
    """A marker's bytes are not what was once published."""


class Marker(Frozen):
    """What a marker says.

    Attributes:
        spec: The trial.
        result: What the attempt returned; its ``artifacts`` name every file's size and sha256.
        committed_at: UTC, ISO 8601.
    """

    spec: TrialSpec
    result: TrialResult
    committed_at: str

    @classmethod
    def now(cls, spec: TrialSpec, result: TrialResult, after: str = "") -> Marker:
        """Return a marker that is stamped with the present time.

        Args:
            spec: The trial.
            result: What the attempt returned.
            after: Stamp of a marker that this one comes after, whatever this machine's clock says.
        """
        now = datetime.now(UTC)
        if after:
            now = max(now, datetime.fromisoformat(after) + timedelta(microseconds=1))
        stamp = now.isoformat(timespec="microseconds")
        return cls(spec=spec, result=result, committed_at=stamp)


def encode_marker(marker: Marker) -> bytes:
    """Return the bytes of a marker: the body with its size and sha256."""
    body = marker.model_dump(mode="json")
    text = _text(body)
    envelope = {
        "schema": MARKER_SCHEMA,
        "num_bytes": len(text),
        "sha256": hashlib.sha256(text).hexdigest(),
        "body": body,
    }
    return json.dumps(envelope, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def decode_marker(data: bytes, key: str) -> Marker:
    """Return the marker of the trial ``key``.

    Raises:
        DamagedMarkerError: When the bytes are cut or changed, or are of another trial.
        UserError: When they are whole, but written by a version that says other things.
    """
    body = _verified_body(data)
    try:
        marker = Marker.model_validate(body)
    except ValidationError as error:
        raise _other_version(str(error).splitlines()[0]) from error
    if (marker.result.trial_key, marker.spec.key) != (key, key):
        raise DamagedMarkerError("it is the marker of another trial")
    _check_names(marker.result)
    return marker


def _check_names(result: TrialResult) -> None:
    """Refuse names that would lead a reader out of the attempt's folder."""
    files = [*result.artifacts, *result.masks, *(info.name for info in result.artifacts.values())]
    for name in (result.attempt, *files):
        if not PLAIN_NAME.fullmatch(name):
            raise DamagedMarkerError(f"it names {name!r}, which is no plain name")


def _verified_body(data: bytes) -> Any:
    try:
        envelope = json.loads(data)
        schema, body = envelope["schema"], envelope["body"]
        named = (envelope["num_bytes"], envelope["sha256"])
        text = _text(body)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedMarkerError("it is cut or not a marker") from error
    if (len(text), hashlib.sha256(text).hexdigest()) != named:
        raise DamagedMarkerError("its content has not the sha256 that it names")
    if schema != MARKER_SCHEMA:
        raise _other_version(f"its schema is {schema!r}, but only {MARKER_SCHEMA} is known")
    return body


def _text(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _other_version(problem: str) -> UserError:
    return UserError(
        f"A marker in the store is whole, but was written by another version: {problem}. "
        "Use the version that wrote it, or another store."
    )
