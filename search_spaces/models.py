"""Pre-trained models: where they come from, what they are by content, what can be pruned."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from search_spaces.canonical import Frozen, content_key
from search_spaces.checkpoint import TensorEntry, backbone_entries, read_header, theta0_sha256
from search_spaces.contracts import ModelPlace
from search_spaces.errors import Fault, SpecError, did_you_mean
from search_spaces.prunable import POOLER, PrunableSet, prunable_names, prunable_set
from search_spaces.sources import model_folder
from search_spaces.trial import ModelIdentity


@dataclass(frozen=True)
class Family:
    """An architecture whose encoder uses BERT's parameter names.

    Attributes:
        prefix: Of the backbone's parameters in a task model's checkpoint.
        position_offset: Added to the padding token's id to get the first position; None where
            positions simply start at 0.
        has_pooler: Whether the backbone can have a pooler.
    """

    prefix: str
    position_offset: int | None = None
    has_pooler: bool = True


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "bert": Family("bert"),
        "roberta": Family("roberta", position_offset=1),
        "xlm-roberta": Family("roberta", position_offset=1),
        "camembert": Family("roberta", position_offset=1),
        "electra": Family("electra", has_pooler=False),
    }
)

# What the configuration defaults to where a file leaves a field out, as transformers has it.
_FUNCTION_FIELDS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "max_position_embeddings": 512,
    "vocab_size": 30522,
    "initializer_range": 0.02,
    "model_type": "",
    "position_embedding_type": "absolute",
    "pad_token_id": 0,
    "embedding_size": None,
}
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "sentencepiece.bpe.model", "vocab.txt")
_PRETRAINED_POOLER = ("BertForPreTraining", "BertForNextSentencePrediction")
_ORIGINAL_BERT = re.compile(r"^(google-bert/)?bert-(base|large)-")
PrunableChoice = Literal["default", "encoder", "encoder+pooler"]


class ModelSpecYaml(Frozen):
    """A model as a sweep names it."""

    name: str = Field(min_length=1, description="Short name in the sweep.")
    source: str = Field(
        min_length=1, description="'package:<module>/<path>', a folder, or a hub name."
    )
    revision: str | None = Field(default=None, description="Commit on the hub.")
    theta0_sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="Pin: other weights are refused."
    )
    prunable: PrunableChoice = Field(
        default="default", description="default: with the pooler only if pre-training trained it."
    )


@dataclass(frozen=True)
class ModelFacts:
    """What is known about a model after its files were looked at."""

    identity: ModelIdentity
    place: ModelPlace
    prunable: PrunableSet
    config: dict[str, Any]


def resolve_model(spec: ModelSpecYaml) -> ModelFacts:
    """Find a model's files and name it by content.

    Args:
        spec: The model as the sweep names it.

    Raises:
        SpecError: The files cannot be had, the model is no supported BERT, weights or
            configuration are missing or contradict each other, or the pin does not fit.
    """
    place = f"model '{spec.name}'"
    folder = model_folder(spec.source, spec.revision, place)
    config = read_config(folder)
    header, entries = read_header(folder), backbone_entries(folder)
    prunable = _prunable(spec, place, config, entries, header)
    theta0 = theta0_sha256(folder)
    if spec.theta0_sha256 not in (None, theta0):
        problem = f"expected {spec.theta0_sha256}, found {theta0}."
        hint = "These are other weights than the sweep was written for: check source and revision."
        raise SpecError([Fault(place, "theta0_sha256", problem, hint)])
    identity = ModelIdentity(
        family=config["model_type"],
        theta0_sha256=theta0,
        config_sha256=config_sha256(config),
        tokenizer_sha256=tokenizer_sha256(folder),
        prunable_sha256=prunable.sha256,
        num_prunable=prunable.num_weights,
    )
    return ModelFacts(identity, ModelPlace(folder=str(folder)), prunable, config)


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model's configuration.

    Raises:
        SpecError: There is no config.json, it is no JSON, or the model is no supported BERT.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise _fault(folder, "holds no config.json.", "Give the folder that holds the whole model.")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise _fault(path, f"is no JSON: {error}.", "Copy it again.") from None
    family = config.get("model_type") if isinstance(config, dict) else None
    if family not in FAMILIES:
        problem = f"has model_type '{family}', but must be one of {', '.join(FAMILIES)}."
        raise _fault(path, problem, did_you_mean(str(family), FAMILIES))
    assert isinstance(config, dict)
    return config


def config_sha256(config: Mapping[str, Any]) -> str:
    """Return the sha256 of the fields that change the function the model computes."""
    return content_key({name: config.get(name, d) for name, d in _FUNCTION_FIELDS.items()})


def tokenizer_sha256(folder: Path) -> str:
    """Return the sha256 of what turns text into tokens.

    That is tokenizer.json where there is one, else the vocabulary files and whether text is
    lower-cased.

    Raises:
        SpecError: There is no tokenizer.
    """
    whole = folder / "tokenizer.json"
    if whole.is_file():
        return hashlib.sha256(whole.read_bytes()).hexdigest()
    files = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not files:
        problem = "holds no tokenizer.json and no vocabulary file."
        raise _fault(folder, problem, "Copy the tokenizer's files beside the weights.")
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return content_key({"files": hashes, "do_lower_case": _lower_cases(folder)})


def _lower_cases(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_bytes()) if path.is_file() else {}
    return bool(settings.get("do_lower_case", True))


def _prunable(
    spec: ModelSpecYaml,
    place: str,
    config: Mapping[str, Any],
    entries: Mapping[str, TensorEntry],
    header: Mapping[str, TensorEntry],
) -> PrunableSet:
    with_pooler = _with_pooler(spec, config, entries, header)
    num_layers = int(config.get("num_hidden_layers", _FUNCTION_FIELDS["num_hidden_layers"]))
    missing = [name for name in prunable_names(num_layers, with_pooler) if name not in entries]
    if missing == [POOLER]:
        problem = "is encoder+pooler, but the checkpoint has no pooler (it would be head)."
        raise SpecError([Fault(place, "prunable", problem, "Write prunable: encoder.")])
    if missing:
        problem = f"the checkpoint lacks {missing[0]} and {len(missing) - 1} more."
        raise SpecError([Fault(place, "source", problem, "config.json and weights do not fit.")])
    shapes = {name: entry.shape for name, entry in entries.items()}
    return prunable_set(shapes, num_layers, with_pooler)


def _with_pooler(
    spec: ModelSpecYaml,
    config: Mapping[str, Any],
    entries: Mapping[str, TensorEntry],
    header: Mapping[str, TensorEntry],
) -> bool:
    """Whether the pooler counts: only where pre-training's next-sentence head trained it."""
    if spec.prunable != "default":
        return spec.prunable == "encoder+pooler"
    trained = (
        any(name in _PRETRAINED_POOLER for name in config.get("architectures") or ())
        or any(name.startswith("cls.seq_relationship.") for name in header)
        or bool(_ORIGINAL_BERT.match(spec.source))
    )
    return trained and POOLER in entries


def _fault(path: Path, problem: str, hint: str) -> SpecError:
    return SpecError([Fault(str(path), "", problem, hint)])
