"""Pre-trained models: where they come from, what they are by content, what can be pruned."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from search_spaces.canonical import Frozen, content_key
from search_spaces.checkpoint import TensorEntry, backbone_entries, read_header, theta0_sha256
from search_spaces.contracts import ModelPlace
from search_spaces.errors import Fault, SpecError, did_you_mean
from search_spaces.inputs import is_uri
from search_spaces.prunable import (
    POOLER,
    READ_EACH_TOKEN,
    PoolerPolicy,
    PrunableSet,
    backbone_names,
    prunable_set,
)
from search_spaces.sources import model_folder
from search_spaces.tokenizer_files import tokenizer_sha256
from search_spaces.trial import ModelIdentity


@dataclass(frozen=True)
class Family:
    """An architecture whose encoder uses BERT's parameter names.

    Attributes:
        prefix: Of the backbone's parameters in a task model's checkpoint.
        position_offset: Added to the padding token's id to get the first position; None where
            positions simply start at 0.
        has_pooler: Whether the classifier reads the backbone's pooler.
        num_pair_specials: Special tokens around two texts: three, or four with a doubled one.
        widths: What ``embedding_size`` and ``hidden_size`` default to where they may differ.
    """

    prefix: str
    position_offset: int | None = None
    has_pooler: bool = True
    num_pair_specials: int = 3
    widths: tuple[int, int] | None = None


_ROBERTA = Family("roberta", position_offset=1, has_pooler=False, num_pair_specials=4)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "bert": Family("bert"),
        "roberta": _ROBERTA,
        "xlm-roberta": _ROBERTA,
        "camembert": _ROBERTA,
        "electra": Family("electra", has_pooler=False, widths=(128, 256)),
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
_PRETRAINED_POOLER = ("BertForPreTraining", "BertForNextSentencePrediction")
_ORIGINAL_BERT = re.compile(r"^(google-bert/)?bert-(base|large)-")
PrunableChoice = Literal["default", "encoder", "encoder+pooler"]


class ModelSpecYaml(Frozen):
    """A model as a sweep names it."""

    name: str = Field(min_length=1, description="Short name in the sweep.")
    source: str = Field(
        min_length=1, description="'package:<module>/<path>', a folder, or a hub name."
    )
    revision: str | None = Field(
        default=None, pattern="^[0-9a-f]{40}$", description="Commit on the hub: 40 hex digits."
    )
    files: str | None = Field(
        default=None, description="Where its files lie, if not at source: of a submitted sweep."
    )
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

    def under(self, policy: PoolerPolicy, problem: str) -> ModelFacts:
        """Return the model as a task sees it: without its pooler where that is not to count."""
        counts = policy == "theta0-magnitude" or problem not in READ_EACH_TOKEN
        if counts or not self.prunable.has_pooler:
            return self
        fewer = self.prunable.without_pooler()
        changes = {"prunable_sha256": fewer.sha256, "num_prunable": fewer.num_weights}
        return replace(self, identity=self.identity.model_copy(update=changes), prunable=fewer)


def resolve_model(spec: ModelSpecYaml) -> ModelFacts:
    """Find a model's files and name it by content.

    Raises:
        SpecError: The files cannot be had, contradict each other or the pin, or are no BERT's.
    """
    place, at = f"model '{spec.name}'", spec.files or spec.source
    folder = model_folder(at, spec.revision, place)
    config = read_config(folder)
    header, entries = read_header(folder), backbone_entries(folder)
    _check_backbone(folder, config, entries)
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
    where = ModelPlace(folder=at if is_uri(at) else str(folder))
    return ModelFacts(identity, where, prunable, config)


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
    _check_supported(path, config)
    return config


def _check_supported(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse what transformers would compute in another way than a trial does."""
    positions = config.get("position_embedding_type") or "absolute"
    layers = config.get("num_hidden_layers", 1)
    if positions != "absolute":
        problem = f"has position_embedding_type '{positions}', but must be 'absolute'."
        raise _fault(path, problem, "Use a model with absolute positions.")
    if config.get("is_decoder", False):
        problem = "has is_decoder true, but must be an encoder, whose tokens see each other."
        raise _fault(path, problem, "Use an encoder, or the model's own is_decoder: false.")
    if type(layers) is not int or layers < 1:
        problem = f"has num_hidden_layers {layers!r}, but must be a whole number >= 1."
        raise _fault(path, problem, "Copy config.json again.")


def num_layers_of(config: Mapping[str, Any]) -> int:
    """Return the number of encoder layers."""
    return int(config.get("num_hidden_layers", _FUNCTION_FIELDS["num_hidden_layers"]))


def max_tokens(config: Mapping[str, Any]) -> int:
    """Return the number of positions for tokens; RoBERTa's begin after the padding token's id."""
    positions = int(config.get("max_position_embeddings", 512))
    offset = FAMILIES[config["model_type"]].position_offset
    return positions if offset is None else positions - int(config.get("pad_token_id", 1)) - offset


def _check_backbone(
    folder: Path, config: Mapping[str, Any], entries: Mapping[str, TensorEntry]
) -> None:
    """Refuse a checkpoint that is not exactly the configured backbone, but for its pooler."""
    layers = {int(name.split(".")[2]) for name in entries if name.startswith("encoder.layer.")}
    num_layers = num_layers_of(config)
    if layers != set(range(num_layers)):
        problem = (
            f"config.json has num_hidden_layers {num_layers}, but the weights are those of "
            f"{len(layers)} layers."
        )
        raise _fault(folder, problem, "Copy config.json and the weights of one model.")
    expected = backbone_names(num_layers, _projects_embeddings(config))
    check_names(folder, expected, entries)


def _projects_embeddings(config: Mapping[str, Any]) -> bool:
    widths = FAMILIES[config["model_type"]].widths
    if widths is None:
        return False
    return bool(config.get("embedding_size", widths[0]) != config.get("hidden_size", widths[1]))


def check_names(folder: Path, expected: Iterable[str], found: Iterable[str]) -> None:
    """Compare the backbone's parameters with a checkpoint's, the pooler's aside.

    Raises:
        SpecError: The checkpoint lacks some, or holds others.
    """
    wanted, given = ({n for n in side if not n.startswith("pooler.")} for side in (expected, found))
    parts = [
        f"{verb} {', '.join(sorted(names)[:3])}"
        + (f" and {len(names) - 3} more" * (len(names) > 3))
        for verb, names in (("lacks", wanted - given), ("has the unknown", given - wanted))
        if names
    ]
    if parts:
        problem = f"the checkpoint {' and '.join(parts)}; it must hold the whole backbone."
        hint = "Use the model's complete weights and its own config.json."
        raise _fault(folder, problem, hint)


def config_sha256(config: Mapping[str, Any]) -> str:
    """Return the sha256 of the fields that change the function the model computes."""
    return content_key({name: config.get(name, d) for name, d in _FUNCTION_FIELDS.items()})


def _prunable(
    spec: ModelSpecYaml,
    place: str,
    config: Mapping[str, Any],
    entries: Mapping[str, TensorEntry],
    header: Mapping[str, TensorEntry],
) -> PrunableSet:
    if spec.prunable == "encoder+pooler":
        _check_pooler(place, config, entries)
    with_pooler = _with_pooler(spec, config, entries, header)
    shapes = {name: entry.shape for name, entry in entries.items()}
    return prunable_set(shapes, num_layers_of(config), with_pooler)


def _check_pooler(
    place: str, config: Mapping[str, Any], entries: Mapping[str, TensorEntry]
) -> None:
    family = config["model_type"]
    reason = "the checkpoint has no pooler (it would be head)"
    if not FAMILIES[family].has_pooler:
        reason = f"the classifier of a {family} model has no pooler"
    elif POOLER in entries:
        return
    problem = f"is encoder+pooler, but {reason}."
    raise SpecError([Fault(place, "prunable", problem, "Write prunable: encoder.")])


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
    return trained and POOLER in entries and FAMILIES[config["model_type"]].has_pooler


def _fault(path: Path, problem: str, hint: str) -> SpecError:
    return SpecError([Fault(str(path), "", problem, hint)])
