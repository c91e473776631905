"""Laws of one trial, checked on a real DeepSpeed engine in this process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification

from cluster.attempts import LatestProgress
from cluster.local_executor import LocalExecutor
from search_spaces.checkpoint import iter_parameters
from search_spaces.contracts import ArtifactRef, Compute, Failed, TrialRequest
from search_spaces.models import ModelFacts
from search_spaces.recipes import learning_rate_factor
from search_spaces.resolve import TaskFacts
from search_spaces.trial import (
    CARRY_ARTIFACT,
    Outputs,
    PruneOutput,
    RandomInitMask,
    RandomLayerwiseMask,
    RandomMask,
    Theta0Mask,
    TrainedMask,
)
from tests.workers.requests import request, start_weights
from tests.workers.running import artifact_ref, end_of, run
from workers.carry import Carried
from workers.classifier import Classifier
from workers.engine import Engine, Engines
from workers.finetune import global_batches
from workers.mask_file import read_mask
from workers.proof import prove_rewound, prove_zeros
from workers.pruners import WeightsNotFiniteError, random_uniform
from workers.seeds import stream
from workers.tokens import TokenSplit, token_splits
from workers.trial import PRUNERS

K = 1000
NONE = np.zeros(0, dtype=np.int32)


@pytest.fixture(scope="module")
def padding_executor() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(Compute(layout="padded"))
    yield executor
    executor.close()


def reference_losses(
    root: Path,
    wanted: TrialRequest,
    model: ModelFacts,
    removed: dict[str, torch.Tensor],
    head: Mapping[str, np.ndarray] | None = None,
    first_epoch: int = 0,
    norms: list[float] | None = None,
) -> list[float]:
    """Train the same trial with plain PyTorch on padded batches of transformers' own forward.

    Starts from ``head`` where one is given, else from the fresh one of the trial's seed; the
    gradients' norms before clipping are appended to ``norms``.
    """
    spec, folder = wanted.spec, Path(wanted.model.folder)
    ours = Classifier(folder, spec.task)
    start_weights(ours, folder, stream(spec.seed, spec.task.data_sha256, "head") % 2**63)
    config = ours.model.config
    config._attn_implementation = "eager"
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    plain = BertForSequenceClassification(config).train()
    plain.load_state_dict(ours.model.state_dict())
    if head is not None:
        loaded = dict(plain.named_parameters())
        with torch.no_grad():
            for name, values in head.items():
                loaded[name.removeprefix("model.")].copy_(torch.from_numpy(values))
    weights = dict(plain.bert.named_parameters())
    with torch.no_grad():
        for name, where in removed.items():
            weights[name].masked_fill_(where, 0.0)
    named = list(plain.named_parameters())
    no_decay, decay = ("bias", "LayerNorm.weight"), spec.recipe.weight_decay
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if not n.endswith(no_decay)], "weight_decay": decay},
            {"params": [p for n, p in named if n.endswith(no_decay)], "weight_decay": 0.0},
        ],
        lr=spec.recipe.learning_rate,
        eps=spec.recipe.adam_epsilon,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, spec.recipe)
    )
    tokens = token_splits(spec.model, folder, spec.task, wanted.task, Path(wanted.cache_folder))[
        "train"
    ]
    losses = []
    for indices in global_batches(spec, tokens, first_epoch):
        rows = [tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]] for i in indices]
        ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
        attention = torch.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.from_numpy(row.astype(np.int64))
            attention[at, : len(row)] = 1
        labels = torch.from_numpy(tokens.labels[indices]).long()
        loss = plain(input_ids=ids, attention_mask=attention, labels=labels).loss
        loss.backward()
        for name, where in removed.items():
            weights[name].grad.masked_fill_(where, 0.0)
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), spec.recipe.max_grad_norm)
        if norms is not None:
            norms.append(float(norm))
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("masked", [False, True], ids=["dense", "masked"])
@pytest.mark.parametrize("layout", ["unpadded", "padded"])
@pytest.mark.parametrize(
    ("limit", "decay"),
    [(1.0, 0.01), (0.01, 1.0), (1.0, 0.0)],
    ids=["mild", "clipped", "used rows only"],
)
def test_losses_equal_plain_padded_pytorch(
    root: Path,
    toy: tuple[ModelFacts, TaskFacts],
    executor: LocalExecutor,
    padding_executor: LocalExecutor,
    masked: bool,
    limit: float,
    decay: float,
    layout: Literal["unpadded", "padded"],
) -> None:
    """DeepSpeed in either layout and padded plain PyTorch give the same losses (fp32, no dropout).

    Clipping and decay are strong enough in one case that the losses could not do without them:
    every gradient is too long, and epsilon is too large for Adam to undo the clipping.
    """
    model, task = toy
    mask_of = RandomMask(num_removed=K, seed=3) if masked else None
    changes: dict[str, Any] = {"max_grad_norm": limit, "weight_decay": decay, "adam_epsilon": 1e-3}
    compute = Compute(layout=layout)
    wanted = request(root, model, task, mask=mask_of, compute=compute, **changes)
    removed = {}
    if masked:
        seed = stream(3, task.identity.data_sha256, "random_mask")
        mask = random_uniform(model.prunable, K, seed)
        removed = {n: torch.from_numpy(~mask.matrix(n)) for n in model.prunable.names}
    norms: list[float] = []
    done = run(executor if layout == "unpadded" else padding_executor, wanted)
    expected = reference_losses(root, wanted, model, removed, norms=norms)
    assert [step for step, _ in done.losses] == list(range(1, 9))
    assert [loss for _, loss in done.losses] == pytest.approx(expected, abs=1e-6)
    assert done.numerics.layout == layout
    if limit == 0.01 and layout == "unpadded":
        assert min(norms) > 2 * limit
        for weaker in ({"max_grad_norm": 1e9}, {"weight_decay": 0.0}):
            other = request(root, model, task, mask=mask_of, **(changes | weaker))
            assert (
                max(np.abs(np.subtract(reference_losses(root, other, model, removed), expected)))
                > 1e-5
            )


def test_a_round_may_begin_with_its_parents_trained_head(
    root: Path, toy: tuple[ModelFacts, TaskFacts], executor: LocalExecutor
) -> None:
    """`head: carry`: survivors rewind to theta_0, the head goes on as the parent left it."""
    model, task = toy
    first = request(root, model, task, outputs=Outputs(carry=True), attempt="a001-0000000c")
    ref = artifact_ref(first, run(executor, first), CARRY_ARTIFACT)
    bare = request(root, model, task, mask=RandomMask(num_removed=K, seed=3), head="carry")
    wanted = bare.model_copy(
        update={
            "spec": bare.spec.model_copy(update={"carry_from": first.spec.key}),
            "carry_file": ref,
        }
    )
    done = run(executor, wanted)
    mask = random_uniform(model.prunable, K, stream(3, task.identity.data_sha256, "random_mask"))
    removed = {n: torch.from_numpy(~mask.matrix(n)) for n in model.prunable.names}
    head = Carried.from_bytes(Path(ref.uri.removeprefix("file://")).read_bytes()).head
    expected = reference_losses(root, wanted, model, removed, head)
    assert [loss for _, loss in done.losses] == pytest.approx(expected, abs=1e-6)
    fresh = reference_losses(root, wanted, model, removed)
    assert abs(done.losses[0][1] - fresh[0]) > 1e-4
    assert done.proof.num_start_tensors_equal_theta0 > 0


def test_a_round_may_continue_its_parents_random_streams(
    root: Path, toy: tuple[ModelFacts, TaskFacts], executor: LocalExecutor
) -> None:
    """`rng: continue`: batches go on at the epoch after the parent's last; the head is fresh."""
    model, task = toy
    first = request(root, model, task, outputs=Outputs(carry=True), attempt="a001-0000000e")
    ref = artifact_ref(first, run(executor, first), CARRY_ARTIFACT)
    bare = request(root, model, task, rng="continue", attempt="a001-0000000f")
    spec = bare.spec.model_copy(update={"carry_from": first.spec.key})
    wanted = bare.model_copy(update={"spec": spec, "carry_file": ref})
    losses = [loss for _, loss in run(executor, wanted).losses]
    epochs = 2  # 8 steps of 16 on 63 examples are two epochs of 4 steps
    carried = Carried.from_bytes(Path(ref.uri.removeprefix("file://")).read_bytes())
    assert (carried.epoch, carried.step) == (epochs, 8)
    assert losses == pytest.approx(
        reference_losses(root, wanted, model, {}, first_epoch=epochs), abs=1e-6
    )
    for other in (0, epochs - 1, epochs + 1):
        elsewhere = reference_losses(root, wanted, model, {}, first_epoch=other)
        assert abs(losses[0] - elsewhere[0]) > 1e-5


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
