"""What counts as a trial's checkpoint: every byte as it was written, and made for this attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import workers.checkpoint
from search_spaces.contracts import ArtifactInfo, ArtifactRef, TrialRequest
from search_spaces.models import ModelFacts
from search_spaces.resolve import TaskFacts
from search_spaces.resuming import CheckpointsSpec
from tests.workers.interrupted import with_checkpoints
from tests.workers.numerics import CPU, NUMERICS
from tests.workers.requests import recipe, request
from workers.checkpoint import Checkpoints
from workers.checkpoint_file import (
    MANIFEST,
    UnusableError,
    read_manifest,
    write_file,
    write_manifest,
)
from workers.checkpoint_reading import Found, find_checkpoint
from workers.engine import Engine
from workers.finetune import Shard, SoFar
from workers.survivors import SurvivorAdamW

Toy = tuple[ModelFacts, TaskFacts]
EACH_STEP = CheckpointsSpec(when="always", every_s=1e-9)
FILES = (MANIFEST, "state-0.safetensors", "rank-0.safetensors", "rank-0.json")


@dataclass(frozen=True)
class Bare:
    """As much of an engine as a checkpoint needs: the optimizer, over a matrix and two vectors."""

    optimizer: SurvivorAdamW
    device: torch.device = CPU


def bare(seed: int, survivors: tuple[int, ...] = (0, 3, 7)) -> Bare:
    """Return an optimizer after one step from random weights."""
    torch.manual_seed(seed)
    module = nn.Linear(4, 3)
    optimizer = SurvivorAdamW(module.named_parameters())
    values = {parameter: parameter.detach().clone() for parameter in module.parameters()}
    optimizer.begin(recipe(), values, {module.get_parameter("weight"): torch.tensor(survivors)}, {})
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape)
    optimizer.collect()
    optimizer.step()
    return Bare(optimizer)


def checkpoints(wanted: TrialRequest, engine: Bare, **options: Any) -> Checkpoints:
    shard = Shard(micro_batch_size=8)
    return Checkpoints(wanted, cast(Engine, engine), shard, NUMERICS, 4, {}, **options)


def write(wanted: TrialRequest, engine: Bare, step: int, **options: Any) -> None:
    """Write a checkpoint after a step."""
    so_far = SoFar(step=step, losses=[(1, 0.5)], num_tokens=70)
    checkpoints(wanted, engine, **options).at_boundary(so_far)


def find(wanted: TrialRequest, like: Bare) -> Found | None:
    return find_checkpoint(wanted, NUMERICS, 0, like.optimizer.state_tensors())


def place_of(wanted: TrialRequest) -> Path:
    assert wanted.checkpoints is not None
    return Path(wanted.checkpoints.uri)


@pytest.fixture
def wanted(tmp_path: Path, toy: Toy) -> TrialRequest:
    """A trial without a checkpoint."""
    return with_checkpoints(request(tmp_path, *toy), EACH_STEP)


@pytest.fixture(scope="module")
def written(root: Path, toy: Toy) -> Iterator[TrialRequest]:
    """A trial with a checkpoint after step 3."""
    wanted = with_checkpoints(request(root / "written", *toy), EACH_STEP)
    write(wanted, bare(seed=1), step=3)
    yield wanted


@pytest.fixture(scope="module")
def like() -> Bare:
    """An engine that a checkpoint is looked for."""
    return bare(seed=1)


def test_what_was_written_is_what_is_gone_on_from(wanted: TrialRequest) -> None:
    """Another process's optimizer then has the same bits."""
    first, second = bare(seed=1), bare(seed=2)
    write(wanted, first, step=3)
    so_far = checkpoints(wanted, second).resumed()
    assert (so_far.step, so_far.losses, so_far.num_tokens) == (3, [(1, 0.5)], 70)
    before, after = first.optimizer.state_tensors(), second.optimizer.state_tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert second.optimizer.num_taken == 1


def cut(data: bytes, at: int, change: int) -> bytes:
    return data[: at % len(data)]


def changed(data: bytes, at: int, change: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(FILES),
    damage=st.sampled_from([cut, changed]),
    at=st.integers(min_value=0),
    change=st.integers(1, 255),
)
def test_no_damage_anywhere_goes_unseen(
    written: TrialRequest,
    like: Bare,
    name: str,
    damage: Callable[[bytes, int, int], bytes],
    at: int,
    change: int,
) -> None:
    """Cut off or changed at any byte it does not count, or (white space) says what it said."""
    path = next(place_of(written).rglob(name))
    whole = path.read_bytes()
    path.write_bytes(damage(whole, at, change))
    try:
        found = find(written, like)
    except UnusableError as error:
        assert "does not count: " in str(error)
    else:
        assert (damage, name) == (changed, MANIFEST)
        assert found is not None and found.rank.step == 3
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("field", "what"),
    [("mask_file", "mask"), ("carry_file", "carried state"), ("start_file", "start")],
)
def test_a_checkpoint_is_of_the_files_it_began_with(
    written: TrialRequest, field: str, what: str
) -> None:
    """A parent that is run again elsewhere may leave other bits under the same key."""
    other = ArtifactRef(uri="/store/other", sha256="d" * 64)
    with pytest.raises(UnusableError) as told:
        find(written.model_copy(update={field: other}), bare(seed=1))
    assert str(told.value) == (
        "the checkpoint after step 3 does not count: "
        f"the trial's {what} was made again and is another file now"
    )


def test_a_state_of_another_form_is_not_spread_over_ours(written: TrialRequest) -> None:
    with pytest.raises(UnusableError, match="its state is not of this model and mask"):
        find(written, bare(seed=1, survivors=(0, 3)))


def test_a_rank_state_of_another_version_does_not_count(wanted: TrialRequest) -> None:
    """Whole, and yet not to be understood: no attempt may fail of it again and again."""
    write(wanted, bare(seed=1), step=3)
    place = place_of(wanted)
    manifest = read_manifest(str(place))
    assert manifest is not None
    newer = write_file(str(place / manifest.folder), "rank-0.json", [b'{"rank": 0, "hue": 1}'])
    files = tuple(newer if info.name == newer.name else info for info in manifest.files)
    write_manifest(str(place), manifest.model_copy(update={"files": files}))
    with pytest.raises(UnusableError, match="another version wrote it"):
        find(wanted, bare(seed=1))


def test_a_write_that_fails_leaves_the_one_before_and_nothing_else(
    wanted: TrialRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is not filled further; the training goes on, and so may another attempt."""
    write(wanted, bare(seed=1), step=3)
    before = {path for path in place_of(wanted).rglob("*") if path.is_file()}

    def full(folder: str, name: str, pieces: Any) -> ArtifactInfo:
        if name == "rank-0.json":
            raise OSError(28, "No space left on device")
        return write_file(folder, name, pieces)

    with monkeypatch.context() as patch:
        patch.setattr(workers.checkpoint, "write_file", full)
        write(wanted, bare(seed=2), step=4)
    assert {path for path in place_of(wanted).rglob("*") if path.is_file()} == before
    assert checkpoints(wanted, bare(seed=1)).resumed().step == 3


def test_each_piece_that_is_written_is_a_sign_of_life(wanted: TrialRequest) -> None:
    """A slow place delays a training, which the watchdog would else take for one that hangs."""
    engine, signs = bare(seed=1), []
    write(wanted, engine, step=3, alive=lambda: signs.append(1))
    assert len(signs) == 1 + len(engine.optimizer.state_tensors())
