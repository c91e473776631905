"""The classifier on concatenated tokens computes what transformers computes on padded ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from search_spaces.errors import SpecError
from search_spaces.prunable import backbone_names
from search_spaces.trial import TaskIdentity
from tests.workers.requests import start_weights
from workers.batches import Layout, make_batch
from workers.classifier import Classifier, theta0_values
from workers.labelled import summed_loss
from workers.tokens import TokenSplit

LENGTHS = (7, 3, 12, 7, 5, 2)
SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
    "initializer_range": 0.4,  # at 0.02 a token would hardly see another one, or its position
    "pad_token_id": 1,
}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "bert": (BertConfig, BertModel, {"type_vocab_size": 2, "pad_token_id": 0}),
    "roberta": (RobertaConfig, RobertaModel, {"type_vocab_size": 1}),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel, {"type_vocab_size": 1}),
    "camembert": (CamembertConfig, CamembertModel, {"type_vocab_size": 1}),
    "electra": (
        ElectraConfig,
        ElectraModel,
        {"type_vocab_size": 2, "embedding_size": 8, "pad_token_id": 0},
    ),
}
TASK = TaskIdentity(
    problem="classification",
    num_labels=3,
    metric="accuracy",
    data_sha256="0" * 64,
    select_sha256="0" * 64,
    num_train_examples=len(LENGTHS),
    max_length=16,
)


def save_backbone(folder: Path, family: str, **changes: Any) -> Path:
    """Save a random backbone of a family."""
    config, model, options = FAMILIES[family]
    torch.manual_seed(0)
    model(config(**(SMALL | options | changes))).save_pretrained(str(folder))
    return folder


def pairs_of_segments(num_types: int, lengths: Sequence[int] = LENGTHS) -> TokenSplit:
    """Return examples of several lengths, the second half of each in the last segment."""
    draw = np.random.default_rng(5)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    types = [np.arange(length) * num_types // length for length in lengths]
    return TokenSplit(
        ids=draw.integers(2, SMALL["vocab_size"], offsets[-1]).astype(np.int32),
        types=np.concatenate(types).astype(np.int32),
        offsets=offsets,
        labels=np.arange(len(lengths)) % TASK.num_labels,
        num_truncated=0,
    )


def eager_config(classifier: Classifier, **changes: Any) -> Any:
    """Return the classifier's configuration, for transformers' plainest attention."""
    config = copy.deepcopy(classifier.model.config)
    config._attn_implementation = "eager"
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def padded_inputs(split: TokenSplit, indices: np.ndarray, pad_id: int) -> dict[str, torch.Tensor]:
    """Return examples as the padded arguments of a model of transformers, one by one."""
    places = [slice(split.offsets[i], split.offsets[i + 1]) for i in indices]
    shape = (len(places), max(place.stop - place.start for place in places))
    ids = torch.full(shape, pad_id)
    types, attention = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for row, place in enumerate(places):
        length = place.stop - place.start
        ids[row, :length] = torch.from_numpy(split.ids[place].astype(np.int64))
        types[row, :length] = torch.from_numpy(split.types[place].astype(np.int64))
        attention[row, :length] = 1
    return {"input_ids": ids, "attention_mask": attention, "token_type_ids": types}


@pytest.mark.parametrize("lengths", [LENGTHS, (1, 1, 1), (4,)], ids=["mixed", "one token", "one"])
@pytest.mark.parametrize("layout", ["unpadded", "padded"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits_loss_and_gradients_equal_padded_ones(
    tmp_path: Path, family: str, layout: Layout, lengths: tuple[int, ...]
) -> None:
    """In each family and layout, segments, positions and a projected embedding included.

    Also for examples of a single token, and for a batch of a single example.
    """
    folder = save_backbone(tmp_path, family)
    classifier = Classifier(folder, TASK, layout).eval()
    start_weights(classifier, folder, seed=1)
    split = pairs_of_segments(FAMILIES[family][2]["type_vocab_size"], lengths)
    batch = make_batch(split, np.arange(len(lengths)), "classification", layout)
    ours = classifier(batch)
    loss = summed_loss(ours, batch.labels, "classification") / len(lengths)
    loss.backward()

    plain = AutoModelForSequenceClassification.from_config(eager_config(classifier)).eval()
    plain.load_state_dict(classifier.model.state_dict())
    inputs = padded_inputs(split, batch.indices, plain.config.pad_token_id)
    theirs = plain(**inputs, labels=batch.labels)
    theirs.loss.backward()
    assert ours.shape == (len(lengths), TASK.num_labels)
    assert float((ours - theirs.logits).detach().abs().max()) <= 1e-5
    if len(lengths) > 1:  # the examples differ by far more than allowed
        assert float(theirs.logits.detach().std(dim=0).min()) > 0.05
    assert abs(float(loss - theirs.loss)) <= 1e-5
    expected = {name: weights.grad for name, weights in plain.named_parameters()}
    for name, weights in classifier.model.named_parameters():
        assert weights.grad is not None, name
        assert float((weights.grad - expected[name]).abs().max()) <= 1e-5, name


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_names_checked_before_a_run_are_those_of_transformers(
    tmp_path: Path, family: str
) -> None:
    """A family's backbone has exactly the listed parameters, and a pooler where it reads one."""
    classifier = Classifier(save_backbone(tmp_path, family), TASK)
    names = set(classifier.backbone_parameters())
    poolers = {name for name in names if name.startswith("pooler.")}
    assert names - poolers == backbone_names(2, projects_embeddings=family == "electra")
    assert bool(poolers) is classifier.family.has_pooler


def test_a_backbone_is_loaded_whole_and_in_its_shapes(tmp_path: Path) -> None:
    """Missing layers are no head, and a tensor of another shape is not broadcast."""
    classifier = Classifier(save_backbone(tmp_path / "two", "bert"), TASK)
    with pytest.raises(SpecError, match=r"lacks encoder\.layer\.1\..* and 13 more; it must hold"):
        theta0_values(classifier, save_backbone(tmp_path / "one", "bert", num_hidden_layers=1))
    narrow = save_backbone(tmp_path / "narrow", "bert", type_vocab_size=1)
    with pytest.raises(SpecError, match=r"has the shape \(1, 16\), but must have \(2, 16\)"):
        theta0_values(classifier, narrow)
