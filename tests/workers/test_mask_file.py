"""A mask comes back from its file bit for bit, or not at all."""

import hashlib
import io
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.prunable import PrunableSet
from workers.mask import Mask, MaskMismatchError
from workers.mask_file import MaskFileError, read_mask, write_mask
from workers.pruners import random_uniform

SET = PrunableSet(
    names=("encoder.layer.0.attention.self.query.weight", "encoder.layer.0.output.dense.weight"),
    shapes=((7, 9), (20, 31)),
)
MASK = random_uniform(SET, 400, seed=3)
NOTES = {"theta0_sha256": "ab" * 32, "trial_key": "cd" * 32}
DATA = write_mask(MASK, NOTES, num_ties=17)
PLACE = "store/mask.arrow"
BLANK = b"file_sha256".center(64, b"-")  # what the file's own sha256 is computed over


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=5), st.data())
def test_round_trip(shapes: list[tuple[int, int]], data: st.DataObject) -> None:
    """Any mask over any shapes comes back with the same bits."""
    prunable = PrunableSet(names=tuple(map(str, range(len(shapes)))), shapes=tuple(shapes))
    size = prunable.num_weights
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    mask = Mask.from_bool(prunable, kept)
    again = read_mask(write_mask(mask, {}), prunable, PLACE)
    assert again.bits.tolist() == mask.bits.tolist() and again.sha256 == mask.sha256


def test_equal_masks_give_equal_bytes() -> None:
    """The bytes depend on the content only, not on the order of the notes."""
    assert write_mask(MASK, dict(reversed(NOTES.items())), num_ties=17) == DATA
    assert write_mask(MASK, NOTES, num_ties=18) != DATA


def test_any_arrow_reader_understands_the_file() -> None:
    """One row for each matrix, with its bits as NumPy packs them, and the notes in the schema."""
    table = pa.ipc.open_file(io.BytesIO(DATA)).read_all()
    assert table.column_names == ["name", "shape", "num_kept", "bits"]
    assert table["name"].to_pylist() == list(SET.names)
    assert table["shape"].to_pylist() == [[7, 9], [20, 31]]
    assert sum(table["num_kept"].to_pylist()) == 63 + 620 - 400
    matrices = [np.packbits(MASK.matrix(name)).tobytes() for name in SET.names]
    assert table["bits"].to_pylist() == matrices
    notes = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert notes == NOTES | {
        "format_version": "1",
        "num_ties": "17",
        "prunable_sha256": SET.sha256,
        "mask_sha256": MASK.sha256,
        "file_sha256": notes["file_sha256"],
    }
    blank = DATA.replace(notes["file_sha256"].encode(), BLANK)
    assert notes["file_sha256"] == hashlib.sha256(blank).hexdigest()


def test_no_more_than_one_matrix_is_unpacked() -> None:
    """Writing and reading take less than half a byte a weight: a few copies of the packed bits."""
    names = tuple(map(str, range(16)))
    mask = Mask.ones(PrunableSet(names=names, shapes=((512, 1024),) * 16))
    tracemalloc.start()
    try:
        again = read_mask(write_mask(mask, {}), mask.prunable, PLACE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert again.sha256 == mask.sha256
    assert peak < mask.prunable.num_weights / 2


def read_or_none(data: bytes) -> Mask | None:
    """Return the mask, or None where reading refuses; any other error is a defect."""
    try:
        return read_mask(data, SET, PLACE)
    except MaskFileError as error:
        assert str(error).startswith(PLACE)
        return None


def test_every_damaged_byte_is_refused() -> None:
    """Whichever byte of the file is damaged, Arrow's padding included, the file is refused."""
    for position in range(len(DATA)):
        for flip in (0x01, 0xFF):
            damaged = bytearray(DATA)
            damaged[position] ^= flip
            assert read_or_none(bytes(damaged)) is None, f"byte {position}"


def rewritten(notes: dict[str, str], **columns: Sequence[object]) -> bytes:
    """Return the file with some notes and columns replaced, under a right sha256 of its own."""
    notes = {**notes, "file_sha256": BLANK.decode()}
    table = pa.ipc.open_file(io.BytesIO(DATA)).read_all()
    metadata = {**table.schema.metadata, **{k.encode(): v.encode() for k, v in notes.items()}}
    values = {name: columns.get(name, table[name].to_pylist()) for name in table.column_names}
    table = pa.table(values, schema=table.schema.with_metadata(metadata))
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    return data.replace(BLANK, hashlib.sha256(data).hexdigest().encode())


def test_swapped_weights_are_refused_by_the_sha256() -> None:
    """Bits with the right counts but other places are another mask."""
    other = random_uniform(SET, 400, seed=4)
    bits = [np.packbits(other.matrix(name)).tobytes() for name in SET.names]
    counts = [int(other.matrix(name).sum()) for name in SET.names]
    with pytest.raises(MaskFileError, match="its bits do not have the sha256 that it records"):
        read_mask(rewritten({}, bits=bits, num_kept=counts), SET, PLACE)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"num_kept": [1, 2]}, "query.weight do not have the count that it records"),
        ({"bits": [b"", b""]}, "query.weight have the wrong length"),
        ({"name": ["a", "b"]}, "its matrices do not have the sha256 that it records"),
        ({"name": [None, "b"]}, r"it cannot be read \(ValidationError\)"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(
    columns: dict[str, list[object]], reason: str
) -> None:
    """The message names the file, what is wrong and the next step."""
    expected = rf"^{PLACE}: the mask file is damaged: .*{reason}\. Remove or quarantine .* sweep"
    with pytest.raises(MaskFileError, match=expected):
        read_mask(rewritten({}, **columns), SET, PLACE)


@pytest.mark.parametrize("data", [b"", b"ARROW1", DATA[:-1], DATA[: len(DATA) // 2]])
def test_truncated_files_are_refused(data: bytes) -> None:
    """A file cut anywhere is damaged, not empty."""
    with pytest.raises(MaskFileError, match="it cannot be read"):
        read_mask(data, SET, PLACE)


def test_other_arrow_files_are_refused() -> None:
    """An Arrow file of other columns is no mask file."""
    sink = io.BytesIO()
    table = pa.table({"name": ["a"]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(MaskFileError, match=r"it cannot be read \(ValueError\)"):
        read_mask(sink.getvalue(), SET, PLACE)


def test_other_versions_are_refused() -> None:
    """A newer file is not called damaged."""
    with pytest.raises(MaskFileError, match="format version '2', but this program reads"):
        read_mask(rewritten({"format_version": "2"}), SET, PLACE)


@pytest.mark.parametrize(
    ("names", "shapes", "difference"),
    [
        (SET.names, ((7, 9), (20, 32)), r"dense\.weight \(20, 31\) and the model has not; .*32"),
        (SET.names[:1], SET.shapes[:1], r"the file has encoder\.layer\.0\.output.*has not\. Give"),
        (SET.names[::-1], SET.shapes[::-1], "the order of the matrices differs"),
    ],
)
def test_masks_of_other_models_are_refused(
    names: tuple[str, ...], shapes: tuple[tuple[int, int], ...], difference: str
) -> None:
    """A sound file of another prunable set is not called damaged: both sets are named."""
    model = PrunableSet(names=names, shapes=shapes)
    both = f"{PLACE}: a mask of another model.*{SET.sha256[:10]}.*{model.sha256[:10]}"
    with pytest.raises(MaskMismatchError, match=f"{both}.*{difference}"):
        read_mask(DATA, model, PLACE)
