"""A BERT-family classifier on concatenated tokens, started from theta_0 and a seeded head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AutoConfig, AutoModelForSequenceClassification

from search_spaces.checkpoint import iter_parameters
from search_spaces.errors import Fault, SpecError
from search_spaces.models import FAMILIES, check_names
from search_spaces.recipes import Recipe
from search_spaces.trial import TaskIdentity
from workers.batches import Batch

ATTENTION = "tickets_grouped"


def grouped_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    groups: tuple[torch.Tensor, ...],
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each example of a concatenated batch, over groups of equal length.

    Args:
        module: The attention module; not used.
        query: Shape (1, heads, T, head size), as ``key`` and ``value``.
        key: See ``query``.
        value: See ``query``.
        attention_mask: None: nothing is padded.
        dropout: On the attention probabilities.
        scaling: Of the scores.
        groups: ``Batch.groups``.

    Returns:
        Shape (1, T, heads, head size), and no weights.
    """
    output = torch.empty_like(query[0].transpose(0, 1))  # (T, heads, head size)
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    pieces = []
    for group in groups:  # (b, L) indices of tokens
        part_q, part_k, part_v = (states[group].transpose(1, 2) for states in (q, k, v))
        attended = nn.functional.scaled_dot_product_attention(
            part_q, part_k, part_v, dropout_p=dropout, scale=scaling
        )  # (b, heads, L, head size)
        pieces.append(attended.transpose(1, 2).flatten(0, 1))
    where = torch.cat([group.flatten() for group in groups])
    return output.index_copy(0, where, torch.cat(pieces))[None], None


AttentionInterface.register(ATTENTION, grouped_attention)


class Classifier(nn.Module):
    """A task model of transformers whose forward sees real tokens only."""

    def __init__(self, folder: Path, task: TaskIdentity, recipe: Recipe) -> None:
        super().__init__()
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        config.num_labels = task.num_labels
        config.hidden_dropout_prob = recipe.hidden_dropout
        config.attention_probs_dropout_prob = recipe.attention_dropout
        config.classifier_dropout = None
        self.family = FAMILIES[config.model_type]
        self.model = AutoModelForSequenceClassification.from_config(
            config, attn_implementation=ATTENTION
        ).float()
        offset = self.family.position_offset
        self.position_shift = 0 if offset is None else config.pad_token_id + offset
        self.initializer_range: float = config.initializer_range

    @property
    def backbone(self) -> Any:
        """The encoder that theta_0 belongs to."""
        return getattr(self.model, self.family.prefix)

    def backbone_parameters(self) -> dict[str, nn.Parameter]:
        """Return the backbone's parameters by canonical name (a pooler without weights too)."""
        return dict(self.backbone.named_parameters())

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the logits, shape (B, labels), in fp32."""
        hidden = self.backbone(
            input_ids=batch.ids,
            token_type_ids=batch.types,
            position_ids=batch.positions + self.position_shift,
            groups=batch.groups,
        ).last_hidden_state[0]  # (T, hidden)
        first = hidden[batch.starts][:, None]  # (B, 1, hidden)
        pooler = self.backbone.pooler if self.family.has_pooler else None
        if pooler is None:  # RoBERTa and ELECTRA: the head reads the first token itself
            return self.model.classifier(first).float()  # type: ignore[no-any-return]
        pooled = self.model.dropout(pooler(first))
        return self.model.classifier(pooled).float()  # type: ignore[no-any-return]


def load_theta0(classifier: Classifier, folder: Path) -> set[str]:
    """Copy theta_0 into the backbone.

    Returns:
        Canonical names that the checkpoint holds; other parameters are head.

    Raises:
        SpecError: The checkpoint is not the backbone's, apart from a pooler on either side.
    """
    parameters, given = classifier.backbone_parameters(), dict(iter_parameters(folder))
    check_names(folder, parameters, given)
    with torch.no_grad():
        for name in parameters.keys() & given.keys():
            _check_shape(folder, name, tuple(parameters[name].shape), given[name].shape)
            parameters[name].copy_(torch.from_numpy(given[name].copy()))
    return parameters.keys() & given.keys()


def _check_shape(
    folder: Path, name: str, expected: tuple[int, ...], found: tuple[int, ...]
) -> None:
    if expected != found:  # copying would broadcast it
        problem = f"{name} has the shape {found}, but must have {expected} by config.json."
        hint = "Copy config.json and the weights of one model."
        raise SpecError([Fault(str(folder), "", problem, hint)])


def draw_head(classifier: Classifier, theta0_names: set[str], seed: int) -> dict[str, nn.Parameter]:
    """Initialise everything that theta_0 does not hold, by the family's rule and a seed.

    Matrices are normal(0, initializer_range), biases 0.

    Returns:
        The head's parameters by their name in the task model.
    """
    prefix = f"{classifier.family.prefix}."
    generator = torch.Generator().manual_seed(seed)
    head = {}
    with torch.no_grad():
        for name, parameter in sorted(classifier.model.named_parameters()):
            if name.startswith(prefix) and name.removeprefix(prefix) in theta0_names:
                continue
            head[name] = parameter
            if parameter.dim() > 1:
                draw = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(draw * classifier.initializer_range)
            else:
                parameter.zero_()
    return head
