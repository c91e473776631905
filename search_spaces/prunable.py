"""Which parameters a backbone has, and which count as prunable, in the order of a mask's bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from search_spaces.canonical import Frozen, content_key

LAYER_MATRICES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
POOLER = "pooler.dense.weight"
PoolerPolicy = Literal["theta0-magnitude", "keep-all"]
READ_EACH_TOKEN = ("masked-lm", "span")  # problems whose heads leave the pooler out


class PrunableSet(Frozen):
    """The matrices that a mask covers, in canonical order; part of a mask's identity.

    Order: layer by layer query, key, value, attention output, intermediate, output; the pooler
    last. A weight's index in a mask is its position in this concatenation, row-major.
    """

    names: tuple[str, ...] = Field(description="Canonical names, without model prefix.")
    shapes: tuple[tuple[int, int], ...] = Field(description="(outputs, inputs) of each matrix.")

    @property
    def num_weights(self) -> int:
        """N."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def sha256(self) -> str:
        """The sha256 of names and shapes, in order."""
        return content_key(self)

    @property
    def has_pooler(self) -> bool:
        """Whether the pooler is pruned too."""
        return POOLER in self.names

    def without_pooler(self) -> PrunableSet:
        """Return the set without the pooler."""
        pairs = [pair for pair in zip(self.names, self.shapes, strict=True) if pair[0] != POOLER]
        return PrunableSet(names=tuple(n for n, _ in pairs), shapes=tuple(s for _, s in pairs))


def prunable_names(num_layers: int, with_pooler: bool) -> tuple[str, ...]:
    """Return the canonical names of a prunable set, in order."""
    names = [
        f"encoder.layer.{layer}.{matrix}.weight"
        for layer in range(num_layers)
        for matrix in LAYER_MATRICES
    ]
    return (*names, POOLER) if with_pooler else tuple(names)


def backbone_names(num_layers: int, projects_embeddings: bool) -> frozenset[str]:
    """Return the canonical names of a whole backbone without its pooler.

    Args:
        num_layers: Encoder layers.
        projects_embeddings: Whether embeddings are narrower or wider than the layers (ELECTRA).
    """
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    modules = ["embeddings.LayerNorm", *(["embeddings_project"] if projects_embeddings else [])]
    modules += [
        f"encoder.layer.{layer}.{module}"
        for layer in range(num_layers)
        for module in (*LAYER_MATRICES, "attention.output.LayerNorm", "output.LayerNorm")
    ]
    both = [f"{module}.{part}" for module in modules for part in ("weight", "bias")]
    return frozenset([*both, *(f"embeddings.{table}.weight" for table in tables)])


def prunable_set(
    shapes: Mapping[str, tuple[int, ...]], num_layers: int, with_pooler: bool
) -> PrunableSet:
    """Return the prunable set of a checkpoint.

    Args:
        shapes: Shape of every backbone parameter, by canonical name.
        num_layers: Encoder layers.
        with_pooler: Whether the pooler belongs to the set.

    Raises:
        KeyError: The checkpoint lacks one of the matrices; the key is its name.
    """
    names = prunable_names(num_layers, with_pooler)
    pairs = tuple((shapes[name][0], shapes[name][1]) for name in names)
    return PrunableSet(names=names, shapes=pairs)
