"""The prunable set of a BERT of any size, without its weights."""

from __future__ import annotations

from search_spaces.prunable import POOLER, PrunableSet, prunable_names, prunable_set


def bert_prunable(num_layers: int, hidden: int, inner: int) -> PrunableSet:
    """Return all encoder matrices and the pooler; (12, 768, 3072) is BERT-base."""
    shapes = {name: (hidden, hidden) for name in prunable_names(num_layers, with_pooler=True)}
    for layer in range(num_layers):
        shapes[f"encoder.layer.{layer}.intermediate.dense.weight"] = (inner, hidden)
        shapes[f"encoder.layer.{layer}.output.dense.weight"] = (hidden, inner)
    assert POOLER in shapes
    return prunable_set(shapes, num_layers, with_pooler=True)
