"""A trial trains under its parent's mask, whole and of the asked count, or not at all."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces.contracts import ArtifactRef, FailureClass, TrialRequest
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.prunable import PrunableSet
from search_spaces.resolve import TaskFacts
from search_spaces.trial import GivenMask, MaskSource, RandomLayerwiseMask, TrainedMask
from tests.workers.requests import facts, request
from workers.failures import TrialFailure
from workers.input_mask import input_mask
from workers.mask_file import write_mask
from workers.pruners import random_uniform

K = 1000
SOURCE = TrainedMask(parent="f" * 64, num_removed=K)
OTHER_MODEL = PrunableSet(names=("encoder.layer.0.output.dense.weight",), shapes=((50, 60),))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFacts, TaskFacts]:
    return facts(tmp_path_factory.mktemp("input_mask"))


def committed(
    folder: Path, toy: tuple[ModelFacts, TaskFacts], data: bytes, source: MaskSource = SOURCE
) -> TrialRequest:
    """Return a request whose parent committed these bytes as its mask."""
    file = folder / "mask.arrow"
    file.write_bytes(data)
    ref = ArtifactRef(uri=str(file), sha256=hashlib.sha256(data).hexdigest())
    return request(folder, *toy, mask=source, mask_file=ref)


def refusal(wanted: TrialRequest) -> str:
    with pytest.raises(TrialFailure, match=r"mask\.arrow: .* sweep again|mask\.arrow.*Give") as end:
        input_mask(wanted)
    assert end.value.failure is FailureClass.USER_ERROR
    return str(end.value)


def test_the_parents_mask_comes_back(toy: tuple[ModelFacts, TaskFacts], tmp_path: Path) -> None:
    """A sound file gives the mask that was written."""
    mask = random_uniform(toy[0].prunable, K, seed=1)
    found = input_mask(committed(tmp_path, toy, write_mask(mask, {})))
    assert found is not None and found.sha256 == mask.sha256


@pytest.mark.parametrize("size", [0, 100, -1], ids=["empty", "head only", "last byte lost"])
def test_a_file_that_was_committed_cut_short_is_damaged(
    toy: tuple[ModelFacts, TaskFacts], tmp_path: Path, size: int
) -> None:
    """A file with the committed sha256 is still read in full before it is trained under."""
    data = write_mask(random_uniform(toy[0].prunable, K, seed=1), {})[:size]
    assert "the mask file is damaged" in refusal(committed(tmp_path, toy, data))


def test_a_file_that_changed_after_its_commit_is_damaged(
    toy: tuple[ModelFacts, TaskFacts], tmp_path: Path
) -> None:
    """Bytes other than the committed ones are not even parsed."""
    wanted = committed(tmp_path, toy, write_mask(random_uniform(toy[0].prunable, K, seed=1), {}))
    other = write_mask(random_uniform(toy[0].prunable, K, seed=2), {})
    (tmp_path / "mask.arrow").write_bytes(other)
    assert "the file is damaged: its sha256 is" in refusal(wanted)


def test_a_file_that_is_gone_is_said_to_be_missing(
    toy: tuple[ModelFacts, TaskFacts], tmp_path: Path
) -> None:
    """The message names the file and what to do."""
    wanted = committed(tmp_path, toy, b"")
    (tmp_path / "mask.arrow").unlink()
    assert "the file is missing" in refusal(wanted)


def test_a_mask_of_another_model_is_the_users_error(
    toy: tuple[ModelFacts, TaskFacts], tmp_path: Path
) -> None:
    """A sound mask over other matrices is refused as such, with both prunable sets."""
    data = write_mask(random_uniform(OTHER_MODEL, K, seed=1), {})
    message = refusal(committed(tmp_path, toy, data))
    assert "a mask of another model" in message
    assert OTHER_MODEL.sha256[:10] in message and toy[0].prunable.sha256[:10] in message


@pytest.mark.parametrize(
    "source", [SOURCE, RandomLayerwiseMask(reference=SOURCE, seed=1)], ids=["trained", "layerwise"]
)
def test_a_mask_of_another_sparsity_is_refused(
    toy: tuple[ModelFacts, TaskFacts], tmp_path: Path, source: MaskSource
) -> None:
    """A trial whose identity says K never trains under a mask that removes K + 1."""
    data = write_mask(random_uniform(toy[0].prunable, K + 1, seed=1), {})
    message = refusal(committed(tmp_path, toy, data, source))
    assert "removes 1001 weights, but the trial needs one that removes 1000" in message


def test_a_model_with_other_matrices_than_planned_is_refused(
    toy: tuple[ModelFacts, TaskFacts], tmp_path: Path
) -> None:
    """A model folder that changed since planning is named, before any weight is touched."""
    model, task = toy
    identity = model.identity.model_copy(update={"prunable_sha256": "0" * 64})
    wanted = request(tmp_path, replace(model, identity=identity), task, mask=SOURCE)
    with pytest.raises(TrialFailure, match="another prunable set than the sweep was planned with"):
        input_mask(wanted)


def test_a_given_mask_is_the_one_that_the_key_names(
    toy: tuple[ModelFacts, TaskFacts], tmp_path: Path
) -> None:
    """By content and not by file: another mask of this size, or another size, is refused."""
    mask = random_uniform(toy[0].prunable, K, seed=1)
    source = GivenMask(mask_sha256=mask.sha256, num_removed=K)
    found = input_mask(committed(tmp_path, toy, write_mask(mask, {"any": "thing"}), source))
    assert found is not None and found.sha256 == mask.sha256
    other = write_mask(random_uniform(toy[0].prunable, K, seed=2), {})
    told = refusal(committed(tmp_path, toy, other, source))
    assert "the trial needs " in told and "run the sweep again: it is copied again" in told
    fewer = GivenMask(mask_sha256=mask.sha256, num_removed=K - 1)
    told = refusal(committed(tmp_path, toy, write_mask(mask, {}), fewer))
    assert f"removes {K} weights, but the trial needs one that removes {K - 1}" in told
    wanted = committed(tmp_path, toy, b"", source)
    (tmp_path / "mask.arrow").unlink()
    assert "the file is missing" in refusal(wanted)


def test_a_given_mask_without_the_pooler_widens(
    toy: tuple[ModelFacts, TaskFacts], tmp_path: Path
) -> None:
    """On a target whose masks cover the pooler, all of that matrix is kept."""
    pooled = resolve_model(
        ModelSpecYaml(name="tiny", source=toy[0].place.folder, prunable="encoder+pooler")
    )
    mask = random_uniform(pooled.prunable.without_pooler(), K, seed=1)
    source = GivenMask(mask_sha256=mask.sha256, num_removed=K)
    found = input_mask(committed(tmp_path, (pooled, toy[1]), write_mask(mask, {}), source))
    assert found is not None and found.prunable == pooled.prunable and found.num_removed == K
