"""Laws of a checkpoint's files: their format, their hashes, and what does not count."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from search_spaces.contracts import ArtifactInfo, below
from tests.orchestrator.object_store import running_s3
from tests.workers.numerics import CPU, NUMERICS
from workers.checkpoint_file import (
    MANIFEST,
    Manifest,
    UnusableError,
    delete_all,
    delete_others,
    delete_uncounted,
    digest_of,
    read_file,
    read_manifest,
    tensor_pieces,
    tensors_of,
    write_file,
    write_manifest,
)
from workers.checkpoint_ranks import at_most, differing_rank, gathered
from workers.checkpoint_state import random_tensors, random_values, restore_random

shapes = st.lists(st.integers(0, 4), max_size=3)


def manifest(step: int = 7) -> Manifest:
    return Manifest(
        trial_key="a" * 64,
        attempt="a0001-0000abcd",
        step=step,
        numerics=NUMERICS,
        inputs={"mask": "c" * 64},
        files=(ArtifactInfo(name="state.safetensors", sha256="b" * 64, num_bytes=3),),
        written_at="2026-01-01T00:00:00+00:00",
    )


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.tuples(
            st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8]), shapes
        ),
        max_size=5,
    )
)
def test_pieces_are_a_safetensors_file(kinds: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    """safetensors and we read any tensors back, bit for bit: empty ones and scalars too."""
    tensors = {name: (torch.rand(shape) * 100).to(dtype) for name, (dtype, shape) in kinds.items()}
    data = b"".join(bytes(piece) for piece in tensor_pieces(tensors))
    for found in (load(data), tensors_of(bytearray(data))):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
            assert torch.equal(found[name], tensor)


def test_a_file_is_what_its_pieces_are(tmp_path: Path) -> None:
    """Writing and hashing alone tell the same; nothing but the file stays."""
    pieces = [b"one", b"", b"two"]
    info = write_file(str(tmp_path / "folder"), "name", pieces)
    assert info == digest_of("name", pieces)
    assert read_file(str(tmp_path / "folder"), info) == b"onetwo"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["name"]


def test_nothing_half_written_has_a_name(tmp_path: Path) -> None:
    def torn() -> object:
        yield b"first"
        raise OSError("the place is full")

    with pytest.raises(OSError, match="full"):
        write_file(str(tmp_path), "name", torn())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None)
@given(at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_no_changed_bit_of_a_manifest_goes_unseen(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    """A changed manifest is refused, or says exactly what it said before."""
    folder = tmp_path_factory.mktemp("manifest")
    write_manifest(str(folder), manifest())
    path = folder / MANIFEST
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        assert read_manifest(str(folder)) == manifest()
    except UnusableError as error:
        assert str(error) in ("its manifest is cut or damaged", "another version wrote it")


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A trial's folder that is not there yet."""
    if request.param == "folder":
        yield str(tmp_path / "results/key/checkpoint")
    else:
        with running_s3() as bucket:
            yield below(bucket, "results/key/checkpoint")


def test_the_newest_manifest_counts_and_others_go(uri: str) -> None:
    """On a disk as on an object store."""
    assert read_manifest(uri) is None
    delete_others(uri)
    infos = {}
    for step in (3, 7):
        place = below(uri, manifest(step).folder)
        infos[step] = write_file(place, "state.safetensors", [b"abc", bytes([step])])
        write_manifest(uri, manifest(step))
    delete_others(uri, keep=manifest(7).folder)
    assert read_manifest(uri) == manifest(7)
    assert read_file(below(uri, manifest(7).folder), infos[7]) == b"abc\x07"
    with pytest.raises(UnusableError, match=r"its file state.safetensors is missing"):
        read_file(below(uri, manifest(3).folder), infos[3])
    with pytest.raises(UnusableError, match=r"it has no rank-0.json"):
        manifest().file("rank-0.json")


def test_what_a_failed_write_left_goes_and_what_counts_stays(uri: str) -> None:
    """Without a manifest nothing counts; with one that is damaged nobody knows, and all stays."""
    half, whole = below(uri, manifest(3).folder), below(uri, manifest(7).folder)
    info = write_file(half, "state.safetensors", [b"half"])
    delete_uncounted(uri)
    with pytest.raises(UnusableError, match="missing"):
        read_file(half, info)
    for place in (half, whole):
        info = write_file(place, "state.safetensors", [b"abc"])
    write_manifest(uri, manifest(7))
    delete_uncounted(uri)
    assert read_file(whole, info) == b"abc"
    with pytest.raises(UnusableError, match="missing"):
        read_file(half, info)
    write_file(uri, MANIFEST, [b"damaged"])
    delete_uncounted(uri)
    assert read_file(whole, info) == b"abc"
    delete_all(uri)
    assert read_manifest(uri) is None
    delete_all(uri)


def test_random_states_go_on_where_they_were() -> None:
    """Python's, NumPy's and torch's; also between the two normal numbers of a pair."""

    def draw() -> list[float]:
        normal = [random.gauss(), np.random.standard_normal(), float(torch.randn(()))]
        return [*normal, random.random(), np.random.random(), float(torch.rand(()))]

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    draw()
    tensors, values = random_tensors(CPU), random_values()
    expected = [draw() for _ in range(3)]
    assert [draw() for _ in range(3)] != expected
    restore_random(tensors, values, CPU)
    assert [draw() for _ in range(3)] == expected


def test_one_rank_agrees_with_itself() -> None:
    files = [digest_of(name, [name.encode()]) for name in ("common", "state", "arrays", "rest")]
    told = gathered(files, 1, CPU)
    assert told == [[(info.num_bytes, info.sha256) for info in files]]
    assert gathered([], 1, CPU) is None
    assert at_most([3, -3], 1, CPU) == [3, -3]


def test_a_rank_with_other_weights_is_named() -> None:
    assert differing_rank([[(1, "a")], [(1, "a")]]) == 0
    assert differing_rank([[(1, "a")], [(1, "a")], [(1, "b")]]) == 2
