"""The head that a checkpoint brings for masked language modelling (method rule 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from search_spaces.checkpoint import (
    TensorEntry,
    modern_name,
    read_header,
    read_values,
    values_sha256,
)

_BERT = "cls.predictions."
_ROBERTA = "lm_head."
LAYER_NORM_SCALES = ("LayerNorm.weight", "layer_norm.weight")  # the second: RoBERTa's word head
# The decoder is the word embedding, and its bias may be stored under either name.
WORD_HEADS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        _BERT: (
            "bias",
            "transform.LayerNorm.bias",
            "transform.LayerNorm.weight",
            "transform.dense.bias",
            "transform.dense.weight",
        ),
        _ROBERTA: ("bias", "dense.bias", "dense.weight", "layer_norm.bias", "layer_norm.weight"),
    }
)


def word_head_prefix(family: str) -> str | None:
    """Return how the names of a family's word head begin; None where words are not its aim."""
    if family == "electra":  # its checkpoints are those of a discriminator
        return None
    return _BERT if family == "bert" else _ROBERTA


def iter_word_head(folder: Path, family: str) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield ``(name, values)`` of the checkpoint's word head, sorted by name.

    Yields nothing where the checkpoint lacks any part of it: the head is then drawn anew.

    Raises:
        SpecError: The checkpoint cannot be read.
    """
    prefix = word_head_prefix(family)
    entries = _entries(folder, prefix) if prefix else {}
    yield from read_values(entries)


def word_head_sha256(folder: Path, family: str) -> str:
    """Return the sha256 of the checkpoint's word head, or "" where it has none."""
    found = list(iter_word_head(folder, family))
    return values_sha256(found) if found else ""


def _entries(folder: Path, prefix: str) -> dict[str, TensorEntry]:
    stored = {modern_name(name): entry for name, entry in read_header(folder).items()}
    bias = f"{prefix}bias"
    if bias not in stored and f"{prefix}decoder.bias" in stored:
        stored[bias] = stored[f"{prefix}decoder.bias"]
    names = [f"{prefix}{part}" for part in WORD_HEADS[prefix]]
    return {name: stored[name] for name in names} if stored.keys() >= set(names) else {}
