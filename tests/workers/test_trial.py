"""Laws of one trial, checked on a real DeepSpeed engine in this process."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.attempts import LatestProgress
from cluster.local_executor import LocalExecutor
from search_spaces.checkpoint import iter_parameters
from search_spaces.contracts import ArtifactRef, Compute, Failed, TrialRequest
from search_spaces.models import ModelFacts
from search_spaces.resolve import TaskFacts
from search_spaces.trial import (
    Outputs,
    PruneOutput,
    RandomInitMask,
    RandomLayerwiseMask,
    RandomMask,
    Theta0Mask,
    TrainedMask,
)
from tests.workers.requests import request
from tests.workers.running import artifact_ref, end_of, run
from workers.engine import Engine, Engines
from workers.finetune import global_batches
from workers.mask_file import read_mask
from workers.proof import prove_rewound, prove_zeros
from workers.pruners import WeightsNotFiniteError, random_uniform
from workers.tokens import TokenSplit
from workers.trial import PRUNERS

K = 1000
NONE = np.zeros(0, dtype=np.int32)


def test_a_lineage_keeps_exact_counts_nested_masks_and_zeros(
    root: Path, toy: tuple[ModelFacts, TaskFacts], executor: LocalExecutor
) -> None:
    """Each round removes exactly K, inside its parent's mask, and proves rewind and zeros."""
    model, task = toy
    first = PruneOutput(pruner="global-magnitude", num_removed=K)
    second = PruneOutput(pruner="global-magnitude", num_removed=2 * K)
    dense = request(root, model, task, outputs=Outputs(prunes=(first,)))
    done = run(executor, dense)
    ref = artifact_ref(dense, done, first.artifact)
    source = TrainedMask(parent=dense.spec.key, num_removed=K)
    child = request(
        root, model, task, mask=source, mask_file=ref, outputs=Outputs(prunes=(second,))
    )
    end = run(executor, child)
    child_ref = artifact_ref(child, end, second.artifact)
    masks = [read_mask(Path(r.uri).read_bytes(), model.prunable, r.uri) for r in (ref, child_ref)]
    assert [mask.num_removed for mask in masks] == [K, 2 * K]
    assert masks[1].is_subset_of(masks[0])
    assert end.input_mask is not None
    assert end.input_mask.sha256 == masks[0].sha256
    proof = end.proof
    assert proof.num_masked_zero_in_model == proof.num_masked_zero_in_masters == K
    assert proof.num_start_tensors_equal_theta0 == len(
        list(iter_parameters(Path(model.place.folder)))
    )


def test_the_same_seed_gives_the_same_mask_bits(
    root: Path, toy: tuple[ModelFacts, TaskFacts], executor: LocalExecutor
) -> None:
    """Two attempts with dropout leave byte-identical mask files; another seed does not."""
    model, task = toy
    output = PruneOutput(pruner="layerwise-magnitude", num_removed=K)
    shas = []
    for seed, attempt in ((1, "a001-00000001"), (1, "a002-00000002"), (2, "a001-00000003")):
        wanted = request(
            root,
            model,
            task,
            outputs=Outputs(prunes=(output,)),
            seed=seed,
            attempt=attempt,
            hidden_dropout=0.1,
            attention_dropout=0.1,
        )
        shas.append(run(executor, wanted).artifacts[output.artifact].sha256)
    assert shas[0] == shas[1] != shas[2]


def test_computed_masks_have_their_counts(
    root: Path, toy: tuple[ModelFacts, TaskFacts], executor: LocalExecutor
) -> None:
    """theta0, random-uniform and random-layerwise masks remove exactly K weights."""
    model, task = toy
    output = PruneOutput(pruner="global-magnitude", num_removed=K)
    dense = request(root, model, task, outputs=Outputs(prunes=(output,)))
    done = run(executor, dense)
    ref, imp = artifact_ref(dense, done, output.artifact), done.masks[output.artifact].mask
    reference = TrainedMask(parent=dense.spec.key, num_removed=K)
    layerwise = RandomLayerwiseMask(reference=reference, seed=1)
    ends = [
        run(executor, request(root, model, task, mask=mask, mask_file=file)).input_mask
        for mask, file in (
            (Theta0Mask(num_removed=K), None),
            (RandomMask(num_removed=K, seed=1), None),
            (layerwise, ref),
            (RandomInitMask(num_removed=K, seed=1), None),
        )
    ]
    assert [mask.num_removed for mask in ends if mask] == [K] * 4
    assert ends[2] is not None and ends[2].kept_per_matrix == imp.kept_per_matrix
    assert ends[2].sha256 != imp.sha256


def test_each_micro_batch_is_a_sign_of_life(
    root: Path,
    toy: tuple[ModelFacts, TaskFacts],
    executor: LocalExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step of many may take longer on slow hardware than the watchdog waits for one."""
    told: list[str] = []
    monkeypatch.setattr(LatestProgress, "phase", lambda self, name: told.append(name))
    run(executor, request(root, *toy, compute=Compute(micro_batch_size=4)))
    assert told.count("train") == 1 + 8 * 4  # steps of 16 examples


def test_a_diverging_trial_says_so(
    root: Path, toy: tuple[ModelFacts, TaskFacts], executor: LocalExecutor
) -> None:
    """A loss that is not finite ends the trial in the class 'diverged', with a remedy."""
    model, task = toy
    outcome = end_of(executor, request(root, model, task, learning_rate=1e38, max_grad_norm=0.0))
    assert isinstance(outcome, Failed)
    assert outcome.failure == "diverged"
    assert "loss is nan at step 3. Lower recipe.learning_rate" in outcome.message


def test_an_update_that_is_left_out_is_a_divergence(
    root: Path,
    toy: tuple[ModelFacts, TaskFacts],
    executor: LocalExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An infinite gradient costs no update, and ends the trial when losses are next read."""
    num_gradients = itertools.count(1)

    def infinite_at_step_3(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf if next(num_gradients) == 3 else gradient

    def spiking(engines: Engines, wanted: TrialRequest) -> Engine:
        engine = original(engines, wanted)
        engine.classifier.model.classifier.bias.register_hook(infinite_at_step_3)
        return engine

    original = Engines.engine
    monkeypatch.setattr(Engines, "engine", spiking)
    outcome = end_of(executor, request(root, *toy, train_steps=120, lr_horizon_steps=120))
    assert isinstance(outcome, Failed)
    assert outcome.failure == "diverged"
    assert "gradient was not finite at 1 of the first 4 steps, loss 0.6" in outcome.message


def test_a_last_update_that_overflows_is_a_divergence(
    root: Path, toy: tuple[ModelFacts, TaskFacts], executor: LocalExecutor
) -> None:
    """A finite loss before an overflowing last step does not hide the divergence."""
    model, task = toy
    outcome = end_of(
        executor,
        request(
            root, model, task, train_steps=1, warmup_steps=0, learning_rate=1e39, max_grad_norm=0.0
        ),
    )
    assert isinstance(outcome, Failed)
    assert outcome.failure == "diverged"
    assert "weights are not finite after step 1." in outcome.message


@pytest.mark.parametrize("where", ["predictions", "weights"])
def test_nan_after_training_is_a_divergence(
    root: Path,
    toy: tuple[ModelFacts, TaskFacts],
    executor: LocalExecutor,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """NaN that only evaluation or pruning meets is the recipe's fault, and tried as such."""

    def broken(engines: Engines, wanted: TrialRequest) -> Engine:
        engine = original(engines, wanted)
        engine.classifier.model.classifier.register_forward_hook(
            lambda module, inputs, logits: logits if module.training else logits * math.nan
        )
        return engine

    def nan_masters(*arguments: Any) -> Any:
        raise WeightsNotFiniteError("query holds NaN")

    original = Engines.engine
    if where == "predictions":
        monkeypatch.setattr(Engines, "engine", broken)
    else:
        monkeypatch.setitem(PRUNERS, "global-magnitude", nan_masters)
    outputs = Outputs(prunes=(PruneOutput(pruner="global-magnitude", num_removed=K),))
    outcome = end_of(executor, request(root, *toy, outputs=outputs))
    assert isinstance(outcome, Failed)
    assert outcome.failure == "diverged"
    expected = "predictions are missing, NaN" if where == "predictions" else "query holds NaN"
    assert expected in outcome.message


def test_a_damaged_mask_file_is_refused_by_name(
    root: Path, toy: tuple[ModelFacts, TaskFacts], executor: LocalExecutor, tmp_path: Path
) -> None:
    """A parent's mask that is not what was committed is never trained under."""
    model, task = toy
    file = tmp_path / "mask.arrow"
    file.write_bytes(b"ARROW1 but not what was committed")
    ref = ArtifactRef(uri=str(file), sha256="0" * 64)
    source = TrainedMask(parent="f" * 64, num_removed=K)
    outcome = end_of(executor, request(root, model, task, mask=source, mask_file=ref))
    assert isinstance(outcome, Failed)
    assert outcome.failure == "user_error"
    assert str(file) in outcome.message and "run the sweep again" in outcome.message


def test_the_proofs_can_fail(toy: tuple[ModelFacts, TaskFacts]) -> None:
    """One changed bit of theta_0, or one removed weight that moved, ends a trial."""
    model, _ = toy
    folder = Path(model.place.folder)
    start = {name: values.copy() for name, values in iter_parameters(folder)}
    assert prove_rewound(start, iter_parameters(folder), None) == len(start)
    name = model.prunable.names[0]
    start[name].view(np.int32)[0, 0] ^= 1
    with pytest.raises(Exception, match="does not start from theta_0"):
        prove_rewound(start, iter_parameters(folder), None)
    mask = random_uniform(model.prunable, K, 5)
    with pytest.raises(Exception, match=r"removed weights of .* moved in the model"):
        prove_zeros(start, mask, "model")


@pytest.mark.parametrize("sampler", ["random", "length-bucketed"])
def test_every_step_sees_each_example_once_an_epoch(
    root: Path, toy: tuple[ModelFacts, TaskFacts], sampler: str
) -> None:
    """Batches cover an epoch exactly; one of them is smaller; epochs differ, seeds repeat."""
    spec = request(root, *toy, train_steps=10, sampler=sampler).spec
    tokens = TokenSplit(NONE, NONE, np.arange(71), np.zeros(70), num_truncated=0)
    batches = list(global_batches(spec, tokens))
    assert sorted(len(batch) for batch in batches[:5]) == [6, 16, 16, 16, 16]
    if sampler == "random":
        assert len(batches[4]) == 6
    for epoch in (batches[:5], batches[5:]):
        assert sorted(itertools.chain(*epoch)) == list(range(70))
    assert [*map(list, batches[:5])] != [*map(list, batches[5:])]
    again = list(global_batches(spec, tokens))
    assert [*map(list, batches)] == [*map(list, again)]


def test_buckets_hold_similar_lengths(root: Path, toy: tuple[ModelFacts, TaskFacts]) -> None:
    """Within a run of batches no two batches' lengths overlap; their order is mixed."""
    lengths = np.random.default_rng(0).integers(3, 60, 320)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = TokenSplit(NONE, NONE, offsets, np.zeros(320), num_truncated=0)

    def ranges(sampler: str) -> list[tuple[int, int]]:
        spec = request(root, *toy, train_steps=20, lr_horizon_steps=20, sampler=sampler).spec
        found = [lengths[batch] for batch in global_batches(spec, tokens)]
        return [(int(batch.min()), int(batch.max())) for batch in found]

    bucketed = ranges("length-bucketed")
    in_order = sorted(bucketed)
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(in_order))
    assert bucketed != in_order
    assert sum(high - low for low, high in bucketed) * 10 < sum(
        high - low for low, high in ranges("random")
    )
