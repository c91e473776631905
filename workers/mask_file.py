"""Mask files: one row for each matrix, in Arrow's IPC format, checked in full when read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from search_spaces.prunable import PrunableSet
from workers.arrow_file import (
    UNREADABLE,
    check_model,
    decoded_metadata,
    file_metadata,
    is_sealed,
    seal,
)
from workers.bits import Bools
from workers.mask import Mask

FORMAT_VERSION = "1"
_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("shape", pa.list_(pa.int64())),
        ("num_kept", pa.int64()),
        ("bits", pa.large_binary()),
    ]
)


class MaskFileError(ValueError):
    """A mask file is damaged, or of a format that this version does not read."""


def write_mask(mask: Mask, metadata: Mapping[str, str], num_ties: int = 0) -> bytes:
    """Return a mask as the bytes of an Arrow IPC file; equal arguments give equal bytes.

    Args:
        mask: The mask.
        metadata: What else to note in the schema, for example ``theta0_sha256``.
        num_ties: Weights equal to the pruning threshold, as the pruner counted them.
    """
    own = {
        "format_version": FORMAT_VERSION,
        "prunable_sha256": mask.prunable.sha256,
        "mask_sha256": mask.sha256,
        "num_ties": str(num_ties),
    }
    schema = _SCHEMA.with_metadata(file_metadata(metadata, own))
    columns = [
        list(mask.prunable.names),
        [list(shape) for shape in mask.prunable.shapes],
        [mask.kept_per_matrix[name] for name in mask.prunable.names],
        [np.packbits(mask.matrix(name)).tobytes() for name in mask.prunable.names],
    ]
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))
    return seal(sink.getvalue().to_pybytes())


def read_mask(data: bytes, prunable: PrunableSet | None, place: str) -> Mask:
    """Return the mask in the bytes of a mask file, after checking all of it.

    Args:
        data: The file's bytes.
        prunable: The prunable set that the mask must belong to; None = that of the file.
        place: Names the file in messages.

    Raises:
        MaskFileError: The file is damaged or of an unknown format version.
        MaskMismatchError: It is a mask of another model.
    """
    try:
        metadata, rows = _parse(data)
        _check_version(metadata["format_version"], place)
        if not is_sealed(data, metadata["file_sha256"]):
            _refuse(place, "its bytes do not have the sha256 that it records")
        found = PrunableSet(
            names=tuple(row["name"] for row in rows),
            shapes=tuple(tuple(row["shape"]) for row in rows),
        )
    except MaskFileError:
        raise
    except UNREADABLE as error:
        _refuse(place, f"it cannot be read ({type(error).__name__})", error)
    if found.sha256 != metadata.get("prunable_sha256"):
        _refuse(place, "its matrices do not have the sha256 that it records")
    if prunable is not None:
        check_model(found, prunable, place, "mask")
    mask = Mask.from_matrices(found, (_kept(row, place) for row in rows))
    if mask.sha256 != metadata.get("mask_sha256"):
        _refuse(place, "its bits do not have the sha256 that it records")
    return mask


def mask_metadata(data: bytes, place: str) -> dict[str, str]:
    """Return what a mask file notes beside the mask: what ``write_mask`` was given, and its own.

    Raises:
        MaskFileError: The file cannot be read.
    """
    try:
        return _parse(data)[0]
    except UNREADABLE as error:
        _refuse(place, f"it cannot be read ({type(error).__name__})", error)


def _parse(data: bytes) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return schema metadata and rows."""
    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        table = reader.read_all()
    table.validate(full=True)
    if not table.schema.equals(_SCHEMA) or table.num_rows == 0:
        raise ValueError("not the columns of a mask file")
    rows: list[dict[str, Any]] = table.to_pylist()
    return decoded_metadata(table.schema), rows


def _check_version(version: str, place: str) -> None:
    if version != FORMAT_VERSION:
        raise MaskFileError(
            f"{place}: the mask file has format version {version!r}, but this program reads "
            f"version {FORMAT_VERSION!r}. Use the program's version that wrote it, or remove "
            "the file and run the sweep again: the trial that made it is run again."
        )


def _kept(row: Mapping[str, Any], place: str) -> Bools:
    """Return the bits of one row as a flat bool array."""
    packed = np.frombuffer(row["bits"] or b"", dtype=np.uint8)
    size = math.prod(row["shape"])
    if packed.size != -(-size // 8):
        _refuse(place, f"the bits of {row['name']} have the wrong length")
    kept = np.unpackbits(packed, count=size).view(np.bool_)
    if np.count_nonzero(kept) != row["num_kept"]:
        _refuse(place, f"the bits of {row['name']} do not have the count that it records")
    return kept


def _refuse(place: str, reason: str, cause: BaseException | None = None) -> NoReturn:
    raise MaskFileError(
        f"{place}: the mask file is damaged: {reason}. Remove or quarantine the file and run the "
        "sweep again: the trial that made it is run again."
    ) from cause
