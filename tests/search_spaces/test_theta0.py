"""Weights are named by their content, however they were saved, and read without torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from search_spaces.checkpoint import canonical_name, iter_parameters, read_header, theta0_sha256
from search_spaces.errors import SpecError
from tests.search_spaces.makers import toy_tensors, write_model


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("bert.encoder.layer.0.output.LayerNorm.gamma", "encoder.layer.0.output.LayerNorm.weight"),
        ("roberta.embeddings.LayerNorm.beta", "embeddings.LayerNorm.bias"),
        ("electra.embeddings_project.weight", "embeddings_project.weight"),
        ("pooler.dense.weight", "pooler.dense.weight"),
        ("bert.embeddings.position_ids", None),
        ("cls.predictions.bias", None),
        ("classifier.weight", None),
        ("lm_head.dense.weight", None),
        ("discriminator_predictions.dense.weight", None),
    ],
)
def test_canonical_names(stored: str, name: str | None) -> None:
    assert canonical_name(stored) == name


def test_theta0_does_not_depend_on_how_the_checkpoint_was_saved(tmp_path: Path) -> None:
    """Prefix, head, old LayerNorm names, buffers and sharding leave theta_0 as it is."""
    plain = write_model(tmp_path / "plain", toy_tensors(prefix=""))
    head = {"cls.predictions.bias": np.ones(11, np.float32)}
    buffers = {"bert.embeddings.position_ids": np.arange(5)}
    task = write_model(tmp_path / "task", toy_tensors() | head | buffers)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in toy_tensors().items()
    }
    renamed = write_model(tmp_path / "old", old)
    hashes = {theta0_sha256(folder) for folder in (plain, task, renamed, sharded(tmp_path))}
    assert len(hashes) == 1


def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    tensors = toy_tensors()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


def test_one_changed_bit_changes_theta0(tmp_path: Path) -> None:
    tensors = toy_tensors()
    before = theta0_sha256(write_model(tmp_path / "a", tensors))
    word = tensors["bert.embeddings.LayerNorm.bias"].view(np.uint32)
    word[0] ^= 1
    assert theta0_sha256(write_model(tmp_path / "b", tensors)) != before


def test_parameters_come_sorted_as_fp32_from_all_three_types(tmp_path: Path) -> None:
    """F16 and BF16 widen exactly: 1.5, -2 and 0.15625 are exact in both."""
    values = np.array([1.5, -2.0, 0.15625], np.float32)
    raw = {
        "embeddings.b": ("F32", values.astype("<f4").tobytes()),
        "embeddings.a": ("F16", values.astype("<f2").tobytes()),
        "embeddings.c": ("BF16", (values.view("<u4") >> 16).astype("<u2").tobytes()),
    }
    write_raw(tmp_path, raw)
    found = list(iter_parameters(tmp_path))
    assert [name for name, _ in found] == ["embeddings.a", "embeddings.b", "embeddings.c"]
    for _, array in found:
        assert array.dtype == np.dtype("<f4") and array.tolist() == values.tolist()


def write_raw(folder: Path, tensors: dict[str, tuple[str, bytes]]) -> None:
    header: dict[str, Any] = {}
    body = b""
    for name, (dtype, data) in tensors.items():
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": [3], "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + body
    (folder / "model.safetensors").write_bytes(content)


def test_other_number_types_are_refused(tmp_path: Path) -> None:
    write_raw(tmp_path, {"embeddings.a": ("F64", b"\0" * 24)})
    with pytest.raises(SpecError, match=r"embeddings\.a has the type F64, but F32, F16 or BF16"):
        list(iter_parameters(tmp_path))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    for content, message in (
        (whole[:-10], "is no safetensors file, or is cut off"),
        (b"PK", "is no safetensors file, or is cut off"),
        (b"\x05" + b"\0" * 7 + b"{xxxx" + b"\0" * 9, "has a damaged header"),
    ):
        path.write_bytes(content)
        with pytest.raises(SpecError, match=message):
            read_header(tmp_path)


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"holds no model\.safetensors\. Give the folder"):
        read_header(tmp_path)
    with pytest.raises(SpecError, match="does not exist"):
        read_header(tmp_path / "none")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(
        SpecError, match=r"holds pytorch_model\.bin .*Convert it: .*save_pretrained"
    ):
        read_header(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(SpecError, match=r"names files that do not exist: gone\.safetensors"):
        read_header(tmp_path)
    index.write_text("[]")
    with pytest.raises(SpecError, match="is no index of safetensors files"):
        read_header(tmp_path)
