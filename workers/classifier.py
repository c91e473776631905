"""A BERT-family task model on concatenated tokens, started from theta_0 and its head."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)
from transformers.initialization import no_init_weights

from search_spaces.checkpoint import iter_parameters
from search_spaces.errors import Fault, SpecError
from search_spaces.heads import LAYER_NORM_SCALES
from search_spaces.models import FAMILIES, check_names
from search_spaces.recipes import Recipe
from search_spaces.trial import TaskIdentity
from workers.arrays import as_tensors
from workers.attention import UNPADDED
from workers.batches import Batch, Layout

_ATTENTION = {"unpadded": UNPADDED, "padded": "sdpa"}
WORD_HEADS = {"bert": "cls", "roberta": "lm_head"}  # the module, by the backbone's prefix
_ATTENTION_DROPOUT = "attention.self.dropout"  # how the module's name ends in every family


class Classifier(nn.Module):
    """A task model of transformers whose forward sees real tokens only.

    Its weights are not initialised: ``theta0_values`` and ``draw_head`` have a value for each.
    """

    def __init__(self, folder: Path, task: TaskIdentity, layout: Layout = "unpadded") -> None:
        super().__init__()
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        config.num_labels = task.num_labels
        config.classifier_dropout = None
        self.family, self._head = FAMILIES[config.model_type], _HEADS[task.problem]
        with no_init_weights():
            self.model = self._head.model_class.from_config(
                config, attn_implementation=_ATTENTION[layout]
            ).float()
        if self.ties_words:
            self.model.tie_weights()
        offset = self.family.position_offset
        self.position_shift = 0 if offset is None else config.pad_token_id + offset
        self.initializer_range: float = config.initializer_range

    def set_dropout(self, recipe: Recipe) -> None:
        """Set the probabilities of a recipe."""
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Dropout):
                on_attention = name.endswith(_ATTENTION_DROPOUT)
                module.p = recipe.attention_dropout if on_attention else recipe.hidden_dropout

    @property
    def ties_words(self) -> bool:
        """Whether the head guesses words by the word embedding: each row gets a gradient."""
        return self._head.ties_words

    @property
    def backbone(self) -> Any:
        """The encoder that theta_0 belongs to."""
        return getattr(self.model, self.family.prefix)

    def backbone_parameters(self) -> dict[str, nn.Parameter]:
        """Return the backbone's parameters by canonical name (a pooler without weights too)."""
        return dict(self.backbone.named_parameters())

    def encode(self, batch: Batch) -> torch.Tensor:
        """Return the hidden state of every token: (T, hidden), or (B, longest, hidden) padded."""
        where: dict[str, Any] = {"starts": batch.starts, "groups": batch.groups}
        if batch.attention is not None:
            where = {"attention_mask": batch.attention}
        hidden = self.backbone(
            input_ids=batch.ids,
            token_type_ids=batch.types,
            position_ids=batch.positions + self.position_shift,
            **where,
        ).last_hidden_state
        return hidden if batch.attention is not None else hidden[0]  # type: ignore[no-any-return]

    def encode_tokens(self, batch: Batch) -> torch.Tensor:
        """Return the hidden state of every real token, shape (T, hidden), whatever the layout."""
        hidden = self.encode(batch)
        return hidden if batch.attention is None else hidden[batch.attention.bool()]

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the head's logits in fp32.

        Returns:
            (B, labels) of examples; (T, 2), start and end, of an answer's tokens; or
            (places, vocabulary) of hidden words.
        """
        return self._head.logits(self, batch).float()


def _label_logits(classifier: Classifier, batch: Batch) -> torch.Tensor:
    hidden = classifier.encode(batch)
    first = hidden[:, 0] if batch.attention is not None else hidden[batch.starts[:-1]]
    first = first[:, None]  # (B, 1, hidden)
    pooler = classifier.backbone.pooler if classifier.family.has_pooler else None
    if pooler is None:  # RoBERTa and ELECTRA: the head reads the first token itself
        return classifier.model.classifier(first)  # type: ignore[no-any-return]
    pooled = classifier.model.dropout(pooler(first))
    return classifier.model.classifier(pooled)  # type: ignore[no-any-return]


def _word_logits(classifier: Classifier, batch: Batch) -> torch.Tensor:
    """Read the hidden places alone: all tokens times the vocabulary would fill the memory."""
    assert batch.places is not None
    head = classifier.model.get_submodule(WORD_HEADS[classifier.family.prefix])
    return head(classifier.encode_tokens(batch)[batch.places])  # type: ignore[no-any-return]


def _span_logits(classifier: Classifier, batch: Batch) -> torch.Tensor:
    return classifier.model.qa_outputs(  # type: ignore[no-any-return]
        classifier.encode_tokens(batch)
    )


@dataclass(frozen=True)
class _Head:
    """A kind of head: transformers' model that has it, and how it is read.

    Attributes:
        model_class: Of transformers.
        logits: What the classifier's forward returns for a batch.
        ties_words: Whether its decoder is the word embedding.
    """

    model_class: Any
    logits: Callable[[Classifier, Batch], torch.Tensor]
    ties_words: bool = False


_LABELS = _Head(AutoModelForSequenceClassification, _label_logits)
_HEADS: Mapping[str, _Head] = {
    "classification": _LABELS,
    "regression": _LABELS,
    "masked-lm": _Head(AutoModelForMaskedLM, _word_logits, ties_words=True),
    "span": _Head(AutoModelForQuestionAnswering, _span_logits),
}


def theta0_values(classifier: Classifier, folder: Path) -> dict[str, torch.Tensor]:
    """Return theta_0's values by canonical name: views of the mapped file, never to be written.

    Raises:
        SpecError: The checkpoint is not the backbone's, apart from a pooler on either side.
    """
    parameters, given = classifier.backbone_parameters(), dict(iter_parameters(folder))
    check_names(folder, parameters, given)
    names = sorted(parameters.keys() & given.keys())
    for name in names:
        _check_shape(folder, name, tuple(parameters[name].shape), given[name].shape)
    return as_tensors({name: given[name] for name in names})


def _check_shape(
    folder: Path, name: str, expected: tuple[int, ...], found: tuple[int, ...]
) -> None:
    if expected != found:  # copying would broadcast it
        problem = f"{name} has the shape {found}, but must have {expected} by config.json."
        hint = "Copy config.json and the weights of one model."
        raise SpecError([Fault(str(folder), "", problem, hint)])


def head_parameters(
    classifier: Classifier, theta0_names: Collection[str]
) -> dict[str, nn.Parameter]:
    """Return everything that theta_0 does not hold, by its sorted name in the task model."""
    prefix = f"{classifier.family.prefix}."
    return {
        name: parameter
        for name, parameter in sorted(classifier.model.named_parameters())
        if not (name.startswith(prefix) and name.removeprefix(prefix) in theta0_names)
    }


def draw_head(
    classifier: Classifier, head: Mapping[str, nn.Parameter], seed: int
) -> dict[str, torch.Tensor]:
    """Return a head's first fp32 values, by the family's rule and a seed.

    Matrices are normal(0, initializer_range), biases 0, the scales of LayerNorm 1.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(parameter.shape, generator=generator) * classifier.initializer_range
        if parameter.dim() > 1
        else torch.full(parameter.shape, float(name.endswith(LAYER_NORM_SCALES)))
        for name, parameter in head.items()
    }
