"""Lineage files: all masks of a lineage in one Arrow IPC file, near the entropy of their content.

The content is one number for each weight: the round at which it was pruned, if ever. Its entropy
is the sum over rounds of the entropy of "is it kept?" asked of the weights that had survived until
then, so that is what is written: a record batch for each round, a row for each matrix, compressed
by zstd column by column. A row has either

- ``bits``: ``np.packbits`` over the matrix's survivors, row-major, 1 = kept; or
- ``gaps``, where kept or removed weights are rare: the number of other survivors before each of
  the rarer ones, as ``workers.gaps`` writes it. Kept ones are the rarer if twice ``num_kept`` is
  less than the survivors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
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
from workers.gaps import decode_gaps, encode_gaps
from workers.lineage import Lineage
from workers.mask import Mask, MaskMismatchError

FORMAT_VERSION = "1"
_RARE = 6  # one weight in so many; where bitmaps and gaps take the same space, as measured
_SCHEMA = pa.schema(
    [
        ("round_index", pa.uint8()),
        ("name", pa.string()),
        ("shape", pa.list_(pa.int64())),
        ("num_kept", pa.int64()),
        ("bits", pa.large_binary()),
        ("gaps", pa.large_binary()),
    ]
)


class LineageFileError(ValueError):
    """A lineage file is damaged, or of a format that this version does not read."""


def write_lineage(masks: Sequence[Mask], metadata: Mapping[str, str]) -> bytes:
    """Return the masks of a lineage as the bytes of one file; equal arguments give equal bytes.

    Args:
        masks: The mask to which each round pruned, in the order of the rounds.
        metadata: What else to note in the schema, for example ``theta0_sha256``.

    Raises:
        LineageError: There are no masks or more than 254, or they are not nested.
        MaskMismatchError: The masks belong to different prunable sets.
    """
    lineage = Lineage(tuple(masks))
    own = {
        "format_version": FORMAT_VERSION,
        "prunable_sha256": lineage.prunable.sha256,
        "mask_sha256": ",".join(mask.sha256 for mask in masks),
    }
    schema = _SCHEMA.with_metadata(file_metadata(metadata, own))
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for index, pair in enumerate(pairwise([Mask.ones(lineage.prunable), *masks])):
            rows = [{"round_index": index, **row} for row in _rows(*pair)]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    return seal(sink.getvalue().to_pybytes())


def _rows(before: Mask, mask: Mask) -> Iterator[dict[str, Any]]:
    """Yield what a round left of each matrix."""
    prunable = mask.prunable
    for name, shape in zip(prunable.names, prunable.shapes, strict=True):
        kept = mask.matrix(name)[before.matrix(name)]
        num_kept = int(np.count_nonzero(kept))
        row = {"name": name, "shape": list(shape), "num_kept": num_kept}
        if _RARE * min(num_kept, kept.size - num_kept) < kept.size:
            yield row | {"gaps": encode_gaps(kept if 2 * num_kept < kept.size else ~kept)}
        else:
            yield row | {"bits": np.packbits(kept).tobytes()}


def read_lineage(data: bytes, prunable: PrunableSet | None, place: str) -> Lineage:
    """Return the masks in the bytes of a lineage file, after checking all of it.

    Args:
        data: The file's bytes.
        prunable: The prunable set that the masks must belong to; None = that of the file.
        place: Names the file in messages.

    Raises:
        LineageFileError: The file is damaged or of an unknown format version.
        MaskMismatchError: It is a lineage of another model.
    """
    try:
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            metadata = decoded_metadata(reader.schema)
            _check_version(metadata["format_version"], place)
            if not is_sealed(data, metadata["file_sha256"]):
                _refuse(place, "its bytes do not have the sha256 that it records")
            lineage = Lineage(tuple(_read_masks(reader, prunable, place)))
            expected = metadata["mask_sha256"].split(",")
    except (LineageFileError, MaskMismatchError):
        raise
    except UNREADABLE as error:
        _refuse(place, f"it cannot be read ({type(error).__name__})", error)
    if [mask.sha256 for mask in lineage.masks] != expected:
        _refuse(place, "its masks do not have the sha256 that it records")
    return lineage


def _read_masks(reader: Any, prunable: PrunableSet | None, place: str) -> Iterator[Mask]:
    """Yield the mask of each record batch of an open file."""
    if not reader.schema.equals(_SCHEMA):
        raise ValueError("not the columns of a lineage file")
    mask: Mask | None = None
    for index in range(reader.num_record_batches):
        batch = reader.get_batch(index)
        batch.validate(full=True)
        rows = batch.to_pylist()
        found = PrunableSet(
            names=tuple(row["name"] for row in rows),
            shapes=tuple(tuple(row["shape"]) for row in rows),
        )
        prunable = prunable or found
        check_model(found, prunable, place, "lineage")
        before = mask or Mask.ones(prunable)
        mask = Mask.from_matrices(prunable, map(_kept, rows, map(before.matrix, prunable.names)))
        yield mask


def _kept(row: Mapping[str, Any], survivors: Bools) -> Bools:
    """Return which weights of a matrix a row keeps of those that survived until then."""
    size = int(np.count_nonzero(survivors))
    if row["gaps"] is None:
        packed = np.frombuffer(row["bits"], dtype=np.uint8)
        kept = np.unpackbits(packed, count=size).view(np.bool_)
    else:
        rarer = decode_gaps(row["gaps"], size)
        kept = rarer if 2 * row["num_kept"] < size else ~rarer
    survivors[survivors] = kept
    return survivors


def _check_version(version: str, place: str) -> None:
    if version != FORMAT_VERSION:
        raise LineageFileError(
            f"{place}: the lineage file has format version {version!r}, but this program reads "
            f"version {FORMAT_VERSION!r}. Use the program's version that wrote it, or write it "
            "again from the masks of its rounds."
        )


def _refuse(place: str, reason: str, cause: BaseException | None = None) -> NoReturn:
    raise LineageFileError(
        f"{place}: the lineage file is damaged: {reason}. Remove the file and write it again from "
        "the masks of its rounds."
    ) from cause
