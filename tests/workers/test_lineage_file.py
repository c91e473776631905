"""All masks of a lineage come back from one small file bit for bit, or not at all."""

import hashlib
import io
import math
import tracemalloc
from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from search_spaces.prunable import PrunableSet, prunable_names
from workers.lineage import NEVER, Lineage, LineageError
from workers.lineage_file import LineageFileError, read_lineage, write_lineage
from workers.mask import Mask, MaskMismatchError
from workers.mask_file import write_mask
from workers.pruners import random_uniform

SET = PrunableSet(
    names=("encoder.layer.0.attention.self.query.weight", "encoder.layer.0.output.dense.weight"),
    shapes=((7, 9), (20, 31)),
)
MASKS = [random_uniform(SET, num_removed, seed=3) for num_removed in (40, 200, 470)]
NOTES = {"theta0_sha256": "ab" * 32, "lineage": "mrpc"}
DATA = write_lineage(MASKS, NOTES)
PLACE = "store/lineage.arrow"
BLANK = b"file_sha256".center(64, b"-")  # what the file's own sha256 is computed over


def chain(prunable: PrunableSet, rounds: Sequence[int], num_rounds: int) -> list[Mask]:
    """Return the masks of the rounds at which the weights, in canonical order, are pruned."""
    at = np.array(rounds)
    return [Mask.from_bool(prunable, at > index) for index in range(num_rounds)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(1, 20),
    st.data(),
)
def test_round_trip(shapes: list[tuple[int, int]], num_rounds: int, data: st.DataObject) -> None:
    """Any nested masks over any shapes come back with the same bits."""
    prunable = PrunableSet(names=tuple(map(str, range(len(shapes)))), shapes=tuple(shapes))
    size, one = prunable.num_weights, st.one_of(st.integers(0, num_rounds - 1), st.just(NEVER))
    rounds = data.draw(st.lists(one, min_size=size, max_size=size))
    masks = chain(prunable, rounds, num_rounds)
    lineage = read_lineage(write_lineage(masks, {}), prunable, PLACE)
    assert [mask.bits.tolist() for mask in lineage.masks] == [mask.bits.tolist() for mask in masks]
    assert lineage.mask(num_rounds - 1).sha256 == masks[-1].sha256
    columns = [lineage.pruned_at(name).ravel() for name in prunable.names]
    assert np.concatenate(columns).tolist() == rounds


def test_equal_lineages_give_equal_bytes() -> None:
    """The bytes depend on the content only, not on the order of the notes."""
    assert write_lineage(MASKS, dict(reversed(NOTES.items()))) == DATA
    assert write_lineage(MASKS[:2], NOTES) != DATA


def test_any_arrow_reader_understands_the_file() -> None:
    """One batch for each round, one row for each matrix: survivors' bits, or the rarer's gaps."""
    prunable = PrunableSet(names=("a", "b"), shapes=((1, 3), (2, 8)))
    rounds = [1, NEVER, NEVER, *[1] * 10, 0, *[1] * 4, NEVER]
    data = write_lineage(chain(prunable, rounds, 2), NOTES)
    table = pa.ipc.open_file(io.BytesIO(data)).read_all()
    assert table.to_pylist() == [
        dict(zip(table.column_names, row, strict=True))
        for row in (
            (0, "a", [1, 3], 3, None, b""),
            (0, "b", [2, 8], 15, None, bytes([10])),
            (1, "a", [1, 3], 2, bytes([0b01100000]), None),
            (1, "b", [2, 8], 1, None, bytes([14])),
        )
    ]
    assert table.column_names == ["round_index", "name", "shape", "num_kept", "bits", "gaps"]
    notes = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert notes == NOTES | {
        "format_version": "1",
        "prunable_sha256": prunable.sha256,
        "mask_sha256": ",".join(mask.sha256 for mask in chain(prunable, rounds, 2)),
        "file_sha256": notes["file_sha256"],
    }
    blank = data.replace(notes["file_sha256"].encode(), BLANK)
    assert notes["file_sha256"] == hashlib.sha256(blank).hexdigest()


MILLION = PrunableSet(
    names=prunable_names(1, with_pooler=False),
    shapes=((288, 288), (288, 288), (288, 288), (288, 288), (1152, 288), (288, 1152)),
)


@cache
def ranks(sizes: tuple[float, ...]) -> NDArray[np.int64]:
    """Return the random order in which weights go; in matrices of smaller ``sizes`` earlier."""
    scales = np.repeat(sizes, [math.prod(shape) for shape in MILLION.shapes])
    return np.argsort(np.argsort(np.random.default_rng(7).random(len(scales)) * scales))


def entropy_bytes(masks: Sequence[Mask]) -> float:
    """Return the entropy of "the round at which it was pruned" over all weights."""
    num_weights = masks[0].prunable.num_weights
    counts = np.diff([0, *[mask.num_removed for mask in masks], num_weights])
    return -sum(n * math.log2(n / num_weights) for n in counts.tolist() if n) / 8


EVEN, UNEVEN = (1.0,) * 6, (1.0, 3.0, 1.0, 0.01, 2.0, 2.0)


@pytest.mark.parametrize(
    ("sparsities", "sizes"),
    [
        ([index / 10 for index in range(1, 10)], EVEN),
        ([index / 10 for index in range(1, 10)], UNEVEN),
        ([index / 20 for index in range(1, 19)], EVEN),
        ([0.3, 0.5, 0.7], EVEN),
        ([0.3, 0.5, 0.7], UNEVEN),
        ([0.95], EVEN),
    ],
)
def test_the_file_is_within_a_tenth_of_the_entropy(
    sparsities: list[float], sizes: tuple[float, ...]
) -> None:
    """A million weights take at most 1.1 times their entropy, however rounds and matrices differ.

    In the uneven chains one matrix is gone after the first round.
    """
    counts = [round(share * MILLION.num_weights) for share in sparsities]
    masks = [Mask.from_bool(MILLION, ranks(sizes) >= count) for count in counts]
    data = write_lineage(masks, {})
    assert len(data) < 1.1 * entropy_bytes(masks)
    lineage = read_lineage(data, MILLION, PLACE)
    assert [mask.sha256 for mask in lineage.masks] == [mask.sha256 for mask in masks]


def test_reading_takes_the_packed_bits_and_little_more() -> None:
    """Besides the packed masks, reading needs less than twice one of them and a few matrices."""
    shapes = ((64, 256),) * 64
    prunable = PrunableSet(names=tuple(map(str, range(64))), shapes=shapes)
    order = np.random.default_rng(1).permutation(prunable.num_weights)
    masks = [Mask.from_bool(prunable, order >= 100_000 * index) for index in range(1, 10)]
    data = write_lineage(masks, {})
    tracemalloc.start()
    lineage = read_lineage(data, prunable, PLACE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    packed, matrix = prunable.num_weights // 8, 64 * 256
    assert lineage.num_rounds == 9
    assert peak < 9 * packed + 2 * packed + 8 * matrix


def read_or_none(data: bytes) -> Lineage | None:
    """Return the lineage, or None where reading refuses; any other error is a defect."""
    try:
        return read_lineage(data, SET, PLACE)
    except LineageFileError as error:
        assert str(error).startswith(PLACE)
        return None


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_every_damaged_byte_is_refused(position: int, flip: int) -> None:
    """Whichever byte of the file is damaged, Arrow's padding included, the file is refused."""
    damaged = bytearray(DATA)
    damaged[position] ^= flip
    assert read_or_none(bytes(damaged)) is None


def rewritten(notes: dict[str, str], num_batches: int = 3, **columns: Sequence[object]) -> bytes:
    """Return the file with notes and columns replaced, under a right sha256 of its own."""
    notes = {**notes, "file_sha256": BLANK.decode()}
    table = pa.ipc.open_file(io.BytesIO(DATA)).read_all()
    metadata = {**table.schema.metadata, **{k.encode(): v.encode() for k, v in notes.items()}}
    schema = table.schema.with_metadata(metadata)
    values = {name: columns.get(name, table[name].to_pylist()) for name in table.column_names}
    batches = pa.table(values, schema=schema).to_batches(max_chunksize=2)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in batches[:num_batches]:
            writer.write_batch(batch)
    data = sink.getvalue()
    return data.replace(BLANK, hashlib.sha256(data).hexdigest().encode())


def test_rewriting_alone_is_no_damage() -> None:
    """The helper of the tests below gives a sound file where nothing is replaced."""
    assert read_lineage(rewritten({}), SET, PLACE).num_rounds == 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (rewritten({}, num_batches=2), "its masks do not have the sha256 that it records"),
        (rewritten({}, num_batches=0), r"it cannot be read \(LineageError\)"),
        (rewritten({"mask_sha256": ""}), "its masks do not have the sha256 that it records"),
        (rewritten({}, num_kept=[0] * 6), "its masks do not have the sha256 that it records"),
        (rewritten({}, bits=[None] * 6), r"it cannot be read \(TypeError\)"),
        (rewritten({}, gaps=[b"\x09" * 99] * 6), r"it cannot be read \(IndexError\)"),
        (rewritten({}, shape=[[7, 9, 1]] * 6), r"it cannot be read \(ValidationError\)"),
        (write_mask(MASKS[0], {}), r"it cannot be read \(ValueError\)"),
        (DATA[:-1], r"it cannot be read \(ArrowInvalid\)"),
        (DATA.replace(b"mrpc", b"sst2"), "its bytes do not have the sha256 that it records"),
        (b"", r"it cannot be read \(ArrowInvalid\)"),
    ],
)
def test_files_that_contradict_themselves_are_refused(data: bytes, reason: str) -> None:
    """The message names the file, what is wrong and the next step."""
    expected = rf"^{PLACE}: the lineage file is damaged: {reason}\. Remove the file and write it"
    with pytest.raises(LineageFileError, match=expected):
        read_lineage(data, SET, PLACE)


def test_other_versions_are_refused() -> None:
    """A newer file is not called damaged."""
    with pytest.raises(LineageFileError, match="format version '2', but this program reads"):
        read_lineage(rewritten({"format_version": "2"}), SET, PLACE)


def test_lineages_of_other_models_are_refused() -> None:
    """A sound file of another prunable set is not called damaged: the difference is named."""
    model = PrunableSet(names=SET.names, shapes=((7, 9), (20, 32)))
    expected = rf"^{PLACE}: a lineage of another model.*dense\.weight \(20, 31\) and the model has"
    with pytest.raises(MaskMismatchError, match=expected):
        read_lineage(DATA, model, PLACE)


def test_only_nested_masks_are_written() -> None:
    """Masks in the wrong order, or none, are no lineage, and nothing is written."""
    with pytest.raises(LineageError, match="round 1 keeps 160 of the weights that round 0"):
        write_lineage([MASKS[1], MASKS[0]], {})
    with pytest.raises(LineageError, match="0 masks was given"):
        write_lineage([], {})
