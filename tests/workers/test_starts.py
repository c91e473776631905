"""Controls start where they say, and their trials prove it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import BertConfig

from cluster.local_executor import LocalExecutor
from search_spaces.checkpoint import iter_parameters
from search_spaces.contracts import TrialResult
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.prunable import LAYER_MATRICES
from search_spaces.resolve import TaskFacts
from search_spaces.trial import OtherStart, RandomInitMask, RandomMask
from tests.workers.requests import make_model, request
from tests.workers.running import run
from workers.pruners import theta0_magnitude
from workers.seeds import permutation, stream
from workers.starts import drawn, iter_start, layer_order

TASK = "0" * 64
KINDS: tuple[Literal["reinit-all", "reinit-prunable", "layer-shuffle"], ...] = (
    "reinit-all",
    "reinit-prunable",
    "layer-shuffle",
)
Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def wide(root: Path) -> Path:
    """A BERT with enough weights for their moments, and five layers."""
    config = BertConfig(
        vocab_size=60,
        hidden_size=64,
        num_hidden_layers=5,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=32,
        initializer_range=0.05,
    )
    return make_model(root / "wide", config=config)


def fresh(folder: Path, seed: int = 1) -> Arrays:
    return dict(drawn(folder, seed, TASK, None))


def test_drawn_weights_follow_transformers_rule(wide: Path) -> None:
    """normal(0, initializer_range), biases and padding 0, LayerNorm 1 and 0: the same names."""
    found, given = fresh(wide), dict(iter_parameters(wide))
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in given.items()}
    for name, values in found.items():
        assert values.dtype == np.float32
        if values.ndim == 1:
            assert set(values) == ({1.0} if name.endswith("LayerNorm.weight") else {0.0})
        else:
            assert abs(values.std() / 0.05 - 1) < 5 / np.sqrt(2 * values.size)
            assert abs(values.mean()) < 5 * 0.05 / np.sqrt(values.size)
    assert not found["embeddings.word_embeddings.weight"][0].any()
    assert found["embeddings.word_embeddings.weight"][1:].all()


def test_draws_depend_on_the_seed_and_the_parameter_only(wide: Path) -> None:
    """The same again, whichever others are drawn; other seeds and matrices share nothing."""
    name, other = "encoder.layer.1.output.dense.weight", "encoder.layer.2.output.dense.weight"
    again = dict(drawn(wide, 1, TASK, [name]))
    first = fresh(wide)
    assert list(again) == [name]
    np.testing.assert_array_equal(again[name], first[name])
    assert not np.array_equal(first[name], first[other])
    assert not np.array_equal(first[name], fresh(wide, seed=2)[name])


def test_reinit_prunable_leaves_the_rest_at_theta0(wide: Path) -> None:
    """Matrices of the prunable set are those that reinit-all draws; all else is theta_0's."""
    prunable = resolve_model(ModelSpecYaml(name="wide", source=str(wide))).prunable
    start = OtherStart(kind="reinit-prunable", seed=1)
    found = dict(iter_start(wide, start, TASK, prunable))
    every, given = fresh(wide), dict(iter_parameters(wide))
    assert found.keys() == given.keys()
    for name, values in found.items():
        expected = every if name in prunable.names else given
        np.testing.assert_array_equal(values, expected[name])


def test_layers_are_shuffled_as_wholes(wide: Path) -> None:
    """All six matrices of a layer come from one other layer, each layer's are used once."""
    start = OtherStart(kind="layer-shuffle", seed=3)
    found, given = dict(iter_start(wide, start, TASK, None)), dict(iter_parameters(wide))
    sources = []
    for layer in range(5):
        origins = {
            next(
                other
                for other in range(5)
                if np.array_equal(
                    found[f"encoder.layer.{layer}.{matrix}.weight"],
                    given[f"encoder.layer.{other}.{matrix}.weight"],
                )
            )
            for matrix in LAYER_MATRICES
        }
        assert len(origins) == 1
        sources += origins
    assert sorted(sources) == list(range(5)) != sources
    moved = {f"encoder.layer.{n}.{m}.weight" for n in range(5) for m in LAYER_MATRICES}
    for name in given.keys() - moved:
        np.testing.assert_array_equal(found[name], given[name])


@pytest.mark.parametrize("num_layers", [2, 3, 12])
def test_a_layer_shuffle_is_never_the_old_order(num_layers: int) -> None:
    """An order that changes nothing is drawn again; every other first draw stands."""
    old, num_redrawn = list(range(num_layers)), 0
    for seed in range(200):
        draws = (
            permutation(stream(seed, TASK, "layer_perm", *counters), num_layers).tolist()
            for counters in ((), *((attempt,) for attempt in range(1, 100)))
        )
        first = expected = next(draws)
        while expected == old:
            expected = next(draws)
        assert layer_order(seed, TASK, num_layers) == expected
        num_redrawn += first == old
    assert num_layers > 2 or 60 < num_redrawn < 140


def test_a_random_init_mask_ranks_the_weights_that_reinit_draws(
    root: Path, toy: tuple[ModelFacts, TaskFacts], executor: LocalExecutor
) -> None:
    """RP of Table 2: the magnitude mask of a fresh initialisation, on theta_0."""
    model, task = toy
    wanted = request(root, model, task, mask=RandomInitMask(num_removed=500, seed=4))
    folder, data = Path(model.place.folder), task.identity.data_sha256
    expected = theta0_magnitude(dict(drawn(folder, 4, data, None)), model.prunable, 500).mask
    found = run(executor, wanted).input_mask
    assert found is not None and found.sha256 == expected.sha256


def test_trials_prove_the_start_that_they_name(
    root: Path, toy: tuple[ModelFacts, TaskFacts], executor: LocalExecutor
) -> None:
    """On one warm engine: each control trains from its own start, and theta_0 comes back."""
    model, task = toy
    mask = RandomMask(num_removed=500, seed=1)

    def trained(start: OtherStart | None, attempt: str) -> TrialResult:
        wanted = request(root, model, task, mask=mask, start=start, attempt=f"a001-{attempt}")
        return run(executor, wanted)

    before = trained(None, "00000001")
    ends = [trained(OtherStart(kind=kind, seed=1), "00000002") for kind in KINDS]
    after = trained(None, "00000003")
    num_tensors = len(list(iter_parameters(Path(model.place.folder))))
    for end in (before, *ends, after):
        assert end.proof.num_start_tensors_equal_theta0 == num_tensors
        assert end.proof.num_masked_zero_in_masters == 500
    assert before.losses == after.losses
    assert len({tuple(end.losses) for end in (before, *ends)}) == 1 + len(KINDS)
