"""Laws of the controls (method rule 11) that hold for any seed, task and reference."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import hypergeom
from transformers import BertConfig

from search_spaces.checkpoint import iter_parameters
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.prunable import LAYER_MATRICES, PrunableSet
from search_spaces.trial import OtherStart
from tests.workers.requests import make_model
from workers.mask import Mask, matrix_slices
from workers.mask_algebra import num_common
from workers.pruners import global_magnitude, random_layerwise, random_uniform, theta0_magnitude
from workers.seeds import stream
from workers.starts import drawn, iter_start

NUM_LAYERS = 5
RARE = 1e-10
Arrays = dict[str, NDArray[np.float32]]
SEEDS = st.integers(0, 2**63)
TASKS = st.sampled_from(["0" * 64, "ab" * 32, "f" * 64])
STREAMS = st.tuples(SEEDS, TASKS)


@pytest.fixture(scope="module")
def five(root: Path) -> ModelFacts:
    """A BERT of five layers, no two matrices of which are equal."""
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    folder = make_model(root / "five layers", config=config)
    return resolve_model(ModelSpecYaml(name="five", source=str(folder)))


@pytest.fixture(scope="module")
def theta0(five: ModelFacts) -> Arrays:
    return dict(iter_parameters(Path(five.place.folder)))


def start_of(five: ModelFacts, kind: str, seed: int, task: str) -> Arrays:
    start = OtherStart.model_validate({"kind": kind, "seed": seed})
    return dict(iter_start(Path(five.place.folder), start, task, five.prunable))


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(SEEDS, TASKS)
def test_a_layer_shuffle_is_a_bijection_of_layers(
    five: ModelFacts, theta0: Arrays, seed: int, task: str
) -> None:
    """Each layer's six matrices come from one layer, every layer is used once, the rest stays."""
    found = start_of(five, "layer-shuffle", seed, task)
    origin = {
        theta0[f"encoder.layer.{layer}.{matrix}.weight"].tobytes(): (layer, matrix)
        for layer in range(NUM_LAYERS)
        for matrix in LAYER_MATRICES
    }
    assert len(origin) == NUM_LAYERS * len(LAYER_MATRICES)
    sources = []
    for layer in range(NUM_LAYERS):
        names = {matrix: f"encoder.layer.{layer}.{matrix}.weight" for matrix in LAYER_MATRICES}
        origins = {matrix: origin[found.pop(name).tobytes()] for matrix, name in names.items()}
        assert all(matrix == source for matrix, (_, source) in origins.items())
        (source,) = {source for source, _ in origins.values()}
        sources.append(source)
    assert sorted(sources) == list(range(NUM_LAYERS)) != sources
    assert {*found} == {name for name in theta0 if theta0[name].tobytes() not in origin}
    assert_equal(found, theta0, found)


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(SEEDS, TASKS)
def test_reinit_prunable_changes_the_prunable_matrices_only(
    five: ModelFacts, theta0: Arrays, seed: int, task: str
) -> None:
    """All else is theta_0's, bit for bit; the matrices are reinit-all's of that seed."""
    found, every = (start_of(five, kind, seed, task) for kind in ("reinit-prunable", "reinit-all"))
    assert found.keys() == every.keys() == theta0.keys()
    prunable = set(five.prunable.names)
    assert_equal(found, every, prunable)
    assert_equal(found, theta0, theta0.keys() - prunable)
    assert all((found[name] == theta0[name]).mean() < 0.01 for name in prunable)


@settings(deadline=None, max_examples=25)  # the machine may be busy
@given(STREAMS, STREAMS)
@example((1, "0" * 64), (2, "0" * 64))
@example((1, "0" * 64), (1, "f" * 64))
def test_other_seeds_and_tasks_draw_other_weights(
    five: ModelFacts, first: tuple[int, str], second: tuple[int, str]
) -> None:
    """Draws of two streams are uncorrelated: within six standard errors of 0."""
    assume(first != second)
    folder, names = Path(five.place.folder), five.prunable.names
    flat = [
        np.concatenate([values.ravel() for _, values in drawn(folder, *which, names)])
        for which in (first, second)
    ]
    assert abs(np.corrcoef(*flat)[0, 1]) < 6 / sqrt(five.prunable.num_weights)


def assert_equal(found: Arrays, expected: Arrays, names: Iterable[str]) -> None:
    for name in names:
        assert found[name].tobytes() == expected[name].tobytes()


def assert_unrelated(first: Mask, second: Mask) -> None:
    """Check two masks' intersection over union against that of independent random masks.

    The number of weights that both keep is hypergeometric: outside of these bounds once in
    5,000,000,000 times.
    """
    size, kept, common = first.prunable.num_weights, first.num_kept, num_common(first, second)
    assert second.num_kept == kept
    chance = hypergeom(size, kept, kept)
    low, high = (shared / (2 * kept - shared) for shared in (chance.ppf(RARE), chance.isf(RARE)))
    assert low <= common / (2 * kept - common) <= high


@settings(deadline=None, max_examples=200)  # the machine may be busy
@given(STREAMS, STREAMS, st.floats(0.05, 0.95))
@example((1, "0" * 64), (2, "0" * 64), 0.7)
@example((1, "0" * 64), (1, "f" * 64), 0.7)
def test_random_masks_of_other_seeds_and_tasks_are_independent(
    five: ModelFacts, first: tuple[int, str], second: tuple[int, str], sparsity: float
) -> None:
    """They share as many weights as chance makes them, at any sparsity."""
    assume(first != second)
    num_removed = round(sparsity * five.prunable.num_weights)
    masks = [
        random_uniform(five.prunable, num_removed, stream(seed, task, "random_mask"))
        for seed, task in (first, second)
    ]
    assert_unrelated(*masks)


@settings(deadline=None, max_examples=25)  # the machine may be busy
@given(STREAMS, STREAMS, st.floats(0.05, 0.95))
def test_random_init_masks_are_independent_of_each_other_and_of_theta0(
    five: ModelFacts,
    theta0: Arrays,
    first: tuple[int, str],
    second: tuple[int, str],
    sparsity: float,
) -> None:
    """Magnitude masks of fresh weights share what chance makes them share."""
    assume(first != second)
    folder, names = Path(five.place.folder), five.prunable.names
    num_removed = round(sparsity * five.prunable.num_weights)
    weights = [theta0, *(dict(drawn(folder, *which, names)) for which in (first, second))]
    masks = [theta0_magnitude(each, five.prunable, num_removed).mask for each in weights]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert_unrelated(masks[a], masks[b])


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 40)), min_size=1, max_size=6),
    STREAMS,
    st.data(),
)
def test_random_layerwise_keeps_each_matrixs_count(
    shapes: list[tuple[int, int]], which: tuple[int, str], data: st.DataObject
) -> None:
    """For any reference, emptied and whole matrices among them; the same again for the seed."""
    prunable = PrunableSet(names=tuple(map(str, range(len(shapes)))), shapes=tuple(shapes))
    kept = np.zeros(prunable.num_weights, dtype=np.bool_)
    for place in matrix_slices(prunable).values():
        size = place.stop - place.start
        kept[place.start : place.start + data.draw(st.integers(0, size))] = True
    reference, seed = Mask.from_bool(prunable, kept), stream(*which, "random_mask")
    mask = random_layerwise(reference, seed)
    assert mask.kept_per_matrix == reference.kept_per_matrix
    assert mask.sha256 == random_layerwise(reference, seed).sha256
    assert mask.sha256 == random_layerwise(mask, seed).sha256


@settings(deadline=None, max_examples=25)  # the machine may be busy
@given(STREAMS, STREAMS, st.floats(0.05, 0.95))
def test_random_layerwise_masks_are_independent_within_a_matrix(
    five: ModelFacts, first: tuple[int, str], second: tuple[int, str], sparsity: float
) -> None:
    """Two streams share by chance what they keep of the largest matrix, under one reference."""
    assume(first != second)
    name, shape = max(
        zip(five.prunable.names, five.prunable.shapes, strict=True), key=lambda each: each[1]
    )
    num_removed = round(sparsity * five.prunable.num_weights)
    reference = random_uniform(five.prunable, num_removed, seed=5)
    one = PrunableSet(names=(name,), shapes=(shape,))
    masks = [
        random_layerwise(reference, stream(*which, "random_mask")) for which in (first, second)
    ]
    assert_unrelated(*(Mask.from_bool(one, mask.matrix(name).ravel()) for mask in masks))


@settings(deadline=None, max_examples=25)  # the machine may be busy
@given(STREAMS, st.floats(0.1, 0.9))
def test_a_random_mask_tells_nothing_of_the_ticket(
    five: ModelFacts, theta0: Arrays, which: tuple[int, str], sparsity: float
) -> None:
    """It shares with a magnitude mask what chance makes it share."""
    num_removed = round(sparsity * five.prunable.num_weights)
    ticket = global_magnitude(theta0, Mask.ones(five.prunable), num_removed).mask
    mask = random_uniform(five.prunable, num_removed, stream(*which, "random_mask"))
    assert_unrelated(ticket, mask)
