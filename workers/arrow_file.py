"""What Arrow files of masks share: a sha256 of their own inside, and a check of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pyarrow as pa

from search_spaces.prunable import PrunableSet
from workers.mask import MaskMismatchError, describe

NO_DIGEST = "file_sha256".center(64, "-")  # stands in a file while its own sha256 is computed
MAGIC = b"ARROW1"  # how Arrow's IPC files begin
# What Arrow and the decoding of its values raise for bytes that are no such file.
UNREADABLE = (pa.ArrowException, ValueError, KeyError, IndexError, TypeError, OSError, MemoryError)


def file_metadata(given: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return a schema's metadata, sorted, with ``file_sha256`` still to be filled by ``seal``.

    Args:
        given: What the caller notes.
        own: What the format itself notes; wins where both have a key.
    """
    return dict(sorted({**given, **own, "file_sha256": NO_DIGEST}.items()))


def seal(data: bytes) -> bytes:
    """Return a file with its sha256 in place of ``NO_DIGEST``, in both copies of the schema.

    Arrow checks few of its own bytes: padding and much of the metadata may change unnoticed.
    """
    return data.replace(NO_DIGEST.encode(), hashlib.sha256(data).hexdigest().encode())


def is_sealed(data: bytes, recorded: str) -> bool:
    """Return whether a file is, byte for byte, what was sealed with the recorded sha256."""
    blank = data.replace(recorded.encode(), NO_DIGEST.encode()) if recorded else data
    return hashlib.sha256(blank).hexdigest() == recorded


def decoded_metadata(schema: pa.Schema) -> dict[str, str]:
    """Return a schema's metadata as text."""
    return {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}


def column_names(data: bytes) -> list[str] | None:
    """Return the columns of an Arrow file: none if it is damaged; None if it is no such file."""
    if not data.startswith(MAGIC):
        return None
    try:
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            return list(reader.schema.names)
    except UNREADABLE:
        return []


def check_model(found: PrunableSet, expected: PrunableSet, place: str, what: str) -> None:
    """Refuse a sound file that belongs to another model.

    Args:
        found: The file's prunable set.
        expected: The model's.
        place: Names the file in messages.
        what: What the file holds, for example ``mask``.

    Raises:
        MaskMismatchError: The sets differ; the first difference is named.
    """
    if found == expected:
        return
    here = list(zip(found.names, found.shapes, strict=True))
    there = list(zip(expected.names, expected.shapes, strict=True))
    differing = [f"{name} {shape}" for name, shape in here if (name, shape) not in there]
    missing = [f"{name} {shape}" for name, shape in there if (name, shape) not in here]
    parts = [f"the file has {differing[0]} and the model has not"] if differing else []
    parts += [f"the model has {missing[0]} and the file has not"] if missing else []
    raise MaskMismatchError(
        f"{place}: a {what} of another model. The file is over {describe(found)}, the model has "
        f"{describe(expected)}: {'; '.join(parts) or 'the order of the matrices differs'}. "
        f"Give the {what} of a trial on this model."
    )
