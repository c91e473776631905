"""Masks go to torch's pruning and come from it as the reference code has it, bit for bit."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune
from transformers import BertConfig, BertForSequenceClassification

from search_spaces.errors import SpecError
from search_spaces.prunable import PrunableSet, prunable_set
from workers.mask import Mask, MaskMismatchError
from workers.pruners import random_uniform
from workers.reference_masks import apply_mask, mask_buffers, pruned_state, read_reference_mask

IDS = torch.arange(12).reshape(2, 6)
QUERY = "encoder.layer.0.attention.self.query.weight"


def bert(seed: int) -> BertForSequenceClassification:
    """Return a small classifier with random weights, ready to evaluate."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=14,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=22,
        max_position_embeddings=16,
    )
    return BertForSequenceClassification(config).eval()


MODEL = bert(0)
WEIGHTS = {name: value.detach() for name, value in MODEL.bert.named_parameters()}
SHAPES = {name: tuple(value.shape) for name, value in WEIGHTS.items()}
SET = prunable_set(SHAPES, num_layers=2, with_pooler=True)
MASK = random_uniform(SET, 2000, seed=5)


def matrices(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return what the reference code hands to torch's pruning."""
    backbone = model.get_submodule("bert")
    return [(backbone.get_submodule(name.removesuffix(".weight")), "weight") for name in SET.names]


def saved(path: Path, masks: Any, **options: Any) -> Path:
    """Return a mask.pt that holds ``masks``."""
    torch.save(masks, path / "mask.pt", **options)
    return path / "mask.pt"


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before torch 1.6"])
def test_the_reference_code_s_file_is_read(tmp_path: Path, as_zip: bool) -> None:
    """What LT_glue.py prunes and saves is read as the mask by which the model is pruned."""
    model = bert(1)
    prune.global_unstructured(  # type: ignore[no-untyped-call]
        matrices(model), pruning_method=prune.L1Unstructured, amount=0.3
    )
    masks = {key: value for key, value in model.state_dict().items() if "mask" in key}
    path = saved(tmp_path, masks, _use_new_zipfile_serialization=as_zip)
    mask = read_reference_mask(path, SET)
    assert mask.num_removed == round(0.3 * SET.num_weights)
    for module, name in zip(matrices(model), SET.names, strict=True):
        assert np.array_equal(mask.matrix(name), module[0].weight.detach().numpy() != 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, SET.num_weights - 1), st.integers(0, 2**32), st.sampled_from(["bert.", ""]))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, num_removed: int, seed: int, prefix: str
) -> None:
    """Any mask that is exported is imported as the same mask, whatever prefix it has."""
    mask = random_uniform(SET, num_removed, seed)
    path = saved(tmp_path_factory.getbasetemp(), mask_buffers(mask, prefix))
    assert read_reference_mask(path, SET).sha256 == mask.sha256


def test_buffers_are_those_of_the_reference_code() -> None:
    """Names, order and dtype are as its scripts look them up."""
    buffers = mask_buffers(MASK)
    assert list(buffers)[:2] == [
        "bert.encoder.layer.0.attention.self.query.weight_mask",
        "bert.encoder.layer.0.attention.self.key.weight_mask",
    ]
    assert list(buffers)[-1] == "bert.pooler.dense.weight_mask"
    assert {buffer.dtype for buffer in buffers.values()} == {torch.float32}
    assert sum(int(buffer.sum()) for buffer in buffers.values()) == SET.num_weights - 2000


def test_other_dtypes_are_read(tmp_path: Path) -> None:
    """Masks saved as bool are the same masks."""
    masks = {key: value.bool() for key, value in mask_buffers(MASK).items()}
    assert read_reference_mask(saved(tmp_path, masks), SET).sha256 == MASK.sha256


def masked_logits() -> torch.Tensor:
    """Return the logits of ``MODEL`` with its removed weights set to zero."""
    model = bert(0)
    with torch.no_grad():
        for name in SET.names:
            removed = torch.from_numpy(~MASK.matrix(name))
            model.bert.get_parameter(name).masked_fill_(removed, 0)
        logits: torch.Tensor = model(IDS).logits
    return logits


def test_exported_state_makes_the_masked_model() -> None:
    """A model pruned by torch that loads the exported state computes what the ticket computes."""
    other = bert(2)
    for module, name in matrices(other):
        prune.identity(module, name)  # type: ignore[no-untyped-call]
    pruned = {f"bert.{name}" for name in SET.names}
    rest = {key: value for key, value in MODEL.state_dict().items() if key not in pruned}
    other.load_state_dict(rest | pruned_state(MASK, WEIGHTS), strict=True)
    with torch.no_grad():
        assert torch.equal(other(IDS).logits, masked_logits())


def test_exported_state_has_the_weights_dtype() -> None:
    """A mask of other dtype than its weights would make the product's dtype another."""
    weights = {name: weight.to(torch.bfloat16) for name, weight in WEIGHTS.items()}
    state = pruned_state(MASK, weights, prefix="")
    assert {value.dtype for value in state.values()} == {torch.bfloat16}
    assert state[f"{QUERY}_orig"] is weights[QUERY]


@pytest.mark.parametrize("part", [lambda model: model, lambda model: model.bert])
def test_an_applied_mask_makes_the_masked_model(part: Any) -> None:
    """The task model and its backbone alone can be pruned, and what is saved then is the mask."""
    model = bert(0)
    apply_mask(part(model), MASK)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, masked_logits())
    masks = {key: value for key, value in model.state_dict().items() if "mask" in key}
    assert masks.keys() == mask_buffers(MASK).keys()
    for key, buffer in mask_buffers(MASK).items():
        assert torch.equal(masks[key], buffer)


def test_weights_that_do_not_fit_are_all_named() -> None:
    """Each missing matrix and each other shape is in the message."""
    weights = {name: value for name, value in WEIGHTS.items() if name != SET.names[1]}
    expected = (
        r"does not fit the weights: .*query\.weight has \(3, 2\), not \(14, 14\); "
        r".*key\.weight is missing\. Take mask and weights of one model"
    )
    with pytest.raises(MaskMismatchError, match=expected):
        pruned_state(MASK, weights | {QUERY: torch.zeros(3, 2)})


def test_a_model_is_pruned_once() -> None:
    """A model that is already pruned is refused, and left as it was."""
    model = bert(0)
    apply_mask(model, MASK)
    with pytest.raises(
        MaskMismatchError, match=r"fit the model: .*query\.weight is missing; .*one"
    ):
        apply_mask(model, Mask.ones(SET))
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, masked_logits())


def faults(path: Path, prunable: PrunableSet = SET) -> list[str]:
    """Return what is said about a file that must be refused."""
    with pytest.raises(SpecError) as caught:
        read_reference_mask(path, prunable)
    assert all(fault.place == str(path) and fault.hint for fault in caught.value.faults)
    return [f"{fault.field}: {fault.problem}" for fault in caught.value.faults]


def test_every_fault_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    """Unknown and doubled keys, missing matrices, other shapes and values in one list."""
    masks: dict[str, Any] = mask_buffers(MASK)
    keys = list(masks)
    del masks[keys[0]]
    masks[keys[1]] = masks[keys[1]][:2]
    masks[keys[2]] = masks[keys[2]] * 0.5
    masks[keys[3]] = masks[keys[3]].to_sparse()
    masks[keys[4]] = 1
    masks[keys[5]] = torch.full_like(masks[keys[5]], torch.nan)
    masks["pooler.dense.weight_mask"] = masks[keys[-1]]
    masks["classifier.weight_mask"] = torch.ones(2, 14)
    masks["bert.pooler.dense.weight"] = torch.ones(14, 14)
    num_halves = int((masks[keys[2]] == 0.5).sum())
    number = f"({len(SET.names)} matrices, {SET.num_weights} weights)."
    unknown = f"is no mask of a matrix in the prunable set {SET.sha256[:10]} {number}"
    assert faults(saved(tmp_path, masks)) == [
        "pooler.dense.weight_mask: is the same matrix as bert.pooler.dense.weight_mask.",
        f"classifier.weight_mask: {unknown}",
        f"bert.pooler.dense.weight: {unknown}",
        f"{SET.names[0]}_mask: is missing.",
        f"{keys[1]}: has the shape (2, 14), but the model's matrix has (14, 14).",
        f"{keys[2]}: has {num_halves} values that are neither 0 nor 1, the first 0.5.",
        f"{keys[3]}: is torch.sparse_coo, but must be a dense tensor.",
        f"{keys[4]}: is int, but must be a dense tensor.",
        f"{keys[5]}: has 308 values that are neither 0 nor 1, the first nan.",
    ]


def test_a_mask_without_pooler_is_told_how_to_be_read(tmp_path: Path) -> None:
    """A mask from masked language modelling has no pooler: the prunable set must not either."""
    encoder = prunable_set(SHAPES, num_layers=2, with_pooler=False)
    mask = random_uniform(encoder, 700, seed=1)
    path = saved(tmp_path, mask_buffers(mask))
    with pytest.raises(SpecError, match=r"pooler.* is missing\. Leave the pooler out .*encoder'"):
        read_reference_mask(path, SET)
    assert read_reference_mask(path, encoder).sha256 == mask.sha256


class Code:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    """A pickle that would run code is refused, and so is a whole pickled model."""
    touched = tmp_path / "touched"
    expected = ": is no file of tensors by torch.save, or holds code, which is not run (Unpickling"
    assert faults(saved(tmp_path, {"a": Code(touched)}))[0].startswith(expected)
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(Code(touched), protocol=2))
    assert faults(plain)[0].startswith(expected)
    assert not touched.exists()
    assert faults(saved(tmp_path, MODEL))[0].startswith(expected)


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Whatever is no dict of tensors is named, with the file and the way to make one."""
    whole = saved(tmp_path, mask_buffers(MASK)).read_bytes()
    cut = tmp_path / "cut.pt"
    for data in (b"", b"hello", whole[:-1], whole[: len(whole) // 2]):
        cut.write_bytes(data)
        assert faults(cut)[0].startswith(": is no file of tensors by torch.save, or holds code")
    assert faults(saved(tmp_path, [torch.ones(2)])) == [
        ": holds a list, but must hold a dict of tensors by name."
    ]
    assert faults(saved(tmp_path, {1: torch.ones(2)})) == [
        ": holds a dict, but must hold a dict of tensors by name."
    ]
    assert faults(tmp_path / "none.pt") == [": cannot be opened: No such file or directory."]
