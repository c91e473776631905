"""`tickets mask`: what a user sees, and every message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from search_spaces.models import ModelSpecYaml, resolve_model
from tests.orchestrator.said import Say, saying
from tests.workers.requests import make_model
from workers.lineage_file import write_lineage
from workers.mask import Mask
from workers.mask_file import read_mask, write_mask
from workers.pruners import random_uniform


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    monkeypatch.setenv("COLUMNS", "200")
    return saying("mask", monkeypatch, capsys)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mask-commands") / "model"
    make_model(folder)
    return folder


@pytest.fixture(scope="module")
def masks(model: Path) -> list[Mask]:
    """Nested masks at 25, 50 and 75%: one permutation, longer and longer parts of it."""
    prunable = resolve_model(ModelSpecYaml(name="m", source=str(model))).prunable
    num = prunable.num_weights
    return [random_uniform(prunable, num * quarter // 4, seed=1) for quarter in (1, 2, 3)]


@pytest.fixture
def files(masks: list[Mask], tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"mask{index}.arrow" for index in range(len(masks))]
    for path, mask in zip(paths, masks, strict=True):
        path.write_bytes(write_mask(mask, {}))
    return paths


def test_a_mask_is_shown_matrix_by_matrix(say: Say, files: list[Path], masks: list[Mask]) -> None:
    """With each matrix's sparsity, and as JSON the whole of what results record."""
    said = say("show", files[1])
    assert said.code == 0, said.err
    assert f"{masks[1].num_removed:,} of {masks[1].prunable.num_weights:,} weights" in said.out
    assert all(name in said.out for name in masks[1].prunable.names)
    found = json.loads(say("show", files[1], "--json").out)
    assert found == json.loads(masks[1].info().model_dump_json())


def test_masks_are_compared_in_pairs(say: Say, files: list[Path]) -> None:
    """Nested masks overlap by the ratio of their kept weights: 2 / 3, 1 / 3 and 1 / 2."""
    rows = json.loads(say("compare", *files, "--json").out)
    assert [round(row["overlap"], 2) for row in rows] == [0.67, 0.33, 0.5]
    assert (rows[1]["first"], rows[1]["second"]) == (str(files[0]), str(files[2]))
    assert "0.5000" in say("compare", *files[1:]).out


def test_a_mask_goes_to_the_reference_codes_format_and_back(
    say: Say, files: list[Path], masks: list[Mask], model: Path, tmp_path: Path
) -> None:
    """mask.pt holds the scripts' names; read again it is the same mask."""
    there, back = tmp_path / "mask.pt", tmp_path / "back.arrow"
    assert say("convert", files[2], there).code == 0
    stored = torch.load(there, weights_only=True)
    assert "bert.encoder.layer.0.attention.self.query.weight_mask" in stored
    done = say("convert", there, back, "--model", model)
    assert done.code == 0, done.err
    assert read_mask(back.read_bytes(), masks[2].prunable, "back").sha256 == masks[2].sha256


def test_a_lineage_is_packed_and_unpacked(
    say: Say, files: list[Path], masks: list[Mask], tmp_path: Path
) -> None:
    """Every round's mask comes out again."""
    packed, folder = tmp_path / "lineage.arrow", tmp_path / "rounds"
    assert f"Wrote {packed}" in say("pack", packed, *files).out
    said = say("unpack", packed, folder)
    assert said.code == 0 and "sparsity 0.75" in said.out
    found = [read_mask(p.read_bytes(), None, "found") for p in sorted(folder.iterdir())]
    assert [mask.sha256 for mask in found] == [mask.sha256 for mask in masks]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("show", "nowhere.arrow"), "nowhere.arrow: cannot be read: No such file"),
        (("show", "damaged.arrow"), "damaged.arrow: the mask file is damaged"),
        (("compare", "mask0.arrow"), "Give two mask files or more"),
        (("convert", "mask0.arrow", "other.arrow"), "the other in .pt"),
        (("convert", "mask0.arrow", "there.pt"), "there.pt: exists already"),
        (("convert", "there.pt", "new.arrow"), "give it with --model"),
        (("convert", "there.pt", "new.arrow", "--model", "nowhere/model"), "nowhere/model"),
        (("pack", "new.arrow", "mask1.arrow", "mask0.arrow"), "in the order of its rounds"),
        (("unpack", "mask0.arrow", "rounds"), "mask0.arrow: is a mask file, not a packed lineage"),
        (("unpack", "packed.arrow", "mask0.arrow"), "mask0.arrow: cannot be written: File exists"),
        (("show", "packed.arrow"), "is a packed lineage, not a mask file. 'tickets mask unpack'"),
        (("show", "there.pt"), "there.pt: is no mask file: it is not an Arrow file"),
        (("pack", "none/new.arrow", "mask0.arrow"), "none/new.arrow: cannot be written: No such"),
        (("convert", "mask0.arrow", "none/new.pt"), "none/new.pt: cannot be written: No such"),
    ],
)
def test_what_is_wrong_is_told(
    say: Say,
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    told: str,
) -> None:
    """One message, exit code 2, and nothing is written."""
    folder = files[0].parent
    monkeypatch.chdir(folder)
    data = bytearray(files[0].read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "damaged.arrow").write_bytes(data)
    torch.save({}, folder / "there.pt")
    masks = [read_mask(file.read_bytes(), None, "given") for file in files[:1]]
    (folder / "packed.arrow").write_bytes(write_lineage(masks, {}))
    before = sorted(folder.iterdir())
    said = say(*words)
    assert said.code == 2 and told in said.err, said.err
    assert "Traceback" not in said.err
    assert sorted(folder.iterdir()) == before
