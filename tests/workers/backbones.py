"""Random backbones of every family, and examples for them, also padded as transformers wants."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
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

from search_spaces.trial import TaskIdentity
from workers.classifier import Classifier
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
