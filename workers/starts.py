"""Where a trial's backbone starts: theta_0, kept weights, or what a control puts there (rule 11).

The controls of Chen et al. 2020, arXiv 2007.12223, Table 2: all weights drawn anew (theta_0'), and
the layers of theta_0 in another order (theta_0''; pertub_weight.py of BERT-Tickets).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from search_spaces.checkpoint import iter_parameters
from search_spaces.contracts import ArtifactRef
from search_spaces.models import FAMILIES, num_layers_of, read_config
from search_spaces.prunable import LAYER_MATRICES, PrunableSet
from search_spaces.trial import SavedWeights, Start
from workers.kept_weights import KeptWeights
from workers.seeds import permutation, stream

Values = tuple[str, npt.NDArray[np.float32]]  # canonical name, fp32 in the parameter's shape


def iter_start(
    folder: Path,
    start: Start | None,
    task_sha256: str,
    prunable: PrunableSet | None,
    kept: ArtifactRef | None = None,
) -> Iterator[Values]:
    """Yield where every backbone parameter starts, before its mask, sorted by name.

    Args:
        folder: The model.
        start: A control's start, or kept weights; None = theta_0.
        task_sha256: Names the random streams.
        prunable: The matrices that ``reinit-prunable`` draws anew.
        kept: Where the kept weights are.

    Raises:
        TrialFailure: Kept weights are missing, or not what was committed.
    """
    if start is None:
        yield from iter_parameters(folder)
    elif isinstance(start, SavedWeights):
        assert kept is not None, "the scheduler gives every child its parent's files"
        yield from KeptWeights.read(kept).backbone.items()
    elif start.kind == "layer-shuffle":
        num_layers = num_layers_of(read_config(folder))
        yield from _shuffled(folder, layer_order(start.seed, task_sha256, num_layers))
    elif start.kind == "reinit-all":
        yield from drawn(folder, start.seed, task_sha256, None)
    else:
        assert prunable is not None, "validated: this control trains under a mask"
        names = set(prunable.names)
        fresh = dict(drawn(folder, start.seed, task_sha256, names))
        for name, values in iter_parameters(folder):
            yield name, fresh.get(name, values)


def drawn(
    folder: Path, seed: int, task_sha256: str, names: Collection[str] | None
) -> Iterator[Values]:
    """Yield parameters drawn anew by transformers' rule, each from a stream of its own.

    Matrices and embeddings are normal(0, initializer_range), an embedding's padding row and
    biases 0, the scales of LayerNorm 1.

    Args:
        folder: The model, whose shapes and initializer_range count.
        seed: Of the stream ``reinit``.
        task_sha256: Names the random streams.
        names: Which parameters; None = all of the backbone.
    """
    config = read_config(folder)
    padding = {"embeddings.word_embeddings.weight": config.get("pad_token_id")}
    if FAMILIES[config["model_type"]].position_offset is not None:  # RoBERTa pads positions too
        padding["embeddings.position_embeddings.weight"] = config.get("pad_token_id")
    for index, (name, values) in enumerate(iter_parameters(folder)):
        if names is not None and name not in names:
            continue
        if values.ndim < 2:
            fill = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            yield name, np.full(values.shape, fill, dtype=np.float32)
            continue
        generator = torch.Generator()
        generator.manual_seed(stream(seed, task_sha256, "reinit", index) % 2**63)
        fresh = torch.randn(values.shape, generator=generator).numpy()
        fresh *= np.float32(config.get("initializer_range", 0.02))
        if (row := padding.get(name)) is not None:
            fresh[row] = 0.0
        yield name, fresh


def layer_order(seed: int, task_sha256: str, num_layers: int) -> list[int]:
    """Return which layer's matrices each layer gets: never all their own.

    Args:
        seed: Of the stream ``layer_perm``; it is drawn from again while the order is the old one.
        task_sha256: Names the random streams.
        num_layers: At least two.
    """
    assert num_layers > 1, "validated: one layer has no other order"
    old = list(range(num_layers))
    order, attempt = old, 0
    while order == old:
        counters = (attempt,) if attempt else ()
        key = stream(seed, task_sha256, "layer_perm", *counters)
        order, attempt = permutation(key, num_layers).tolist(), attempt + 1
    return order


def _shuffled(folder: Path, order: Sequence[int]) -> Iterator[Values]:
    """Yield theta_0 with its layers' matrices in another order, six matrices at a time."""
    given = dict(iter_parameters(folder))
    source = {
        f"encoder.layer.{layer}.{matrix}.weight": f"encoder.layer.{other}.{matrix}.weight"
        for layer, other in enumerate(order)
        for matrix in LAYER_MATRICES
    }
    for name in given:
        yield name, given[source.get(name, name)]
