"""Whole trials on hidden words and on answers: lineages, ranks, micro-batches, poolers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import BertConfig, BertForPreTraining

from cluster.local_executor import LocalExecutor
from search_spaces.checkpoint import iter_parameters
from search_spaces.contracts import Failed, FailureClass, TrialRequest, TrialResult
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.prunable import POOLER
from search_spaces.resolve import resolve_task
from search_spaces.splits import HashSelect
from search_spaces.task_specs import TaskSpec
from search_spaces.trial import OtherStart, Outputs, PruneOutput, RandomMask, TrainedMask
from tests.search_spaces.makers import data_folder
from tests.workers.requests import request
from tests.workers.running import artifact_ref, end_of, run
from tests.workers.token_tasks import KINDS, Toys, save_tokenizer
from workers.arrow_file import decoded_metadata
from workers.artifacts import read_artifact
from workers.carry import Carried
from workers.mask_file import read_mask

K = 1000


def prune(num_removed: int) -> Outputs:
    return Outputs(prunes=(PruneOutput(pruner="global-magnitude", num_removed=num_removed),))


def metadata_of(wanted: TrialRequest, result: TrialResult) -> dict[str, str]:
    """Return what the only mask file of a result notes."""
    import pyarrow as pa

    (name,) = result.masks
    data = read_artifact(artifact_ref(wanted, result, name))
    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        return decoded_metadata(reader.schema)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_lineage_of_two_rounds(
    root: Path, toys: Toys, executor: LocalExecutor, kind: str
) -> None:
    """Dense, then one round: exact counts, nested masks, zeros, and a score that was learned."""
    model, task = toys[kind]
    steps = {"train_steps": 120, "lr_horizon_steps": 120, "weight_decay": 0.0}
    untrained = run(executor, request(root, model, task, train_steps=1, learning_rate=1e-9))
    dense = request(root, model, task, outputs=prune(K), **steps)
    done = run(executor, dense)
    assert set(done.scores) == {"select", "report"}
    assert done.primary("report") > untrained.primary("report") + 0.1
    (name,) = done.masks
    ref = artifact_ref(dense, done, name)
    source = TrainedMask(parent=dense.spec.key, num_removed=K)
    child = request(root, model, task, mask=source, mask_file=ref, outputs=prune(2 * K), **steps)
    end = run(executor, child)
    (later,) = end.masks
    masks = [
        read_mask(read_artifact(r), model.prunable, r.uri)
        for r in (ref, artifact_ref(child, end, later))
    ]
    assert [mask.num_removed for mask in masks] == [K, 2 * K]
    assert masks[1].is_subset_of(masks[0])
    assert end.proof.num_masked_zero_in_model == end.proof.num_masked_zero_in_masters == K
    names = [n for n, _ in iter_parameters(Path(model.place.folder)) if "pooler" not in n]
    assert end.proof.num_start_tensors_equal_theta0 == len(names)
    assert (
        run(executor, dense.model_copy(update={"attempt": "a002-0000abcd"})).losses == done.losses
    )


def test_the_word_head_starts_from_the_checkpoint(
    root: Path, toys: Toys, executor: LocalExecutor
) -> None:
    """Other seeds start from the same head, and see the same hidden words in evaluation."""
    model, task = toys["text"]
    kept = Outputs(carry=True)
    still = {"train_steps": 1, "lr_horizon_steps": 1, "warmup_steps": 0, "learning_rate": 1e-12}
    stored = load_file(Path(model.place.folder) / "model.safetensors")
    scores = []
    for seed in (1, 2):
        wanted = request(root, model, task, seed=seed, outputs=kept, **still)
        result = run(executor, wanted)
        scores.append(result.scores)
        head = Carried.from_bytes(
            read_artifact(artifact_ref(wanted, result, "carry.safetensors"))
        ).head
        for name, values in head.items():
            np.testing.assert_allclose(values, stored[name], atol=1e-9)
    for split, score in scores[0].items():
        assert scores[1][split].metrics == pytest.approx(score.metrics, rel=1e-6)
    fresh = task.identity.model_copy(update={"head_sha256": ""})
    spec = request(root, model, task, outputs=kept, **still)
    spec = spec.model_copy(update={"spec": spec.spec.model_copy(update={"task": fresh})})
    spec = spec.model_copy(update={"attempt_uri": f"{spec.attempt_uri}-fresh"})
    drawn = Carried.from_bytes(
        read_artifact(artifact_ref(spec, run(executor, spec), "carry.safetensors"))
    ).head
    assert not np.allclose(drawn["cls.predictions.bias"], stored["cls.predictions.bias"])


def test_another_head_is_refused(root: Path, toys: Toys, executor: LocalExecutor) -> None:
    model, task = toys["text"]
    other = task.identity.model_copy(update={"head_sha256": "0" * 64})
    wanted = request(root, model, task)
    wanted = wanted.model_copy(update={"spec": wanted.spec.model_copy(update={"task": other})})
    end = end_of(executor, wanted)
    assert isinstance(end, Failed) and end.failure is FailureClass.USER_ERROR
    assert "head is not the one that the trial was planned with" in end.message


def test_a_wholly_new_start_has_a_new_head(root: Path, toys: Toys, executor: LocalExecutor) -> None:
    """theta_0' of the paper: nothing of the checkpoint is left, its word head neither."""
    model, task = toys["text"]
    start = OtherStart(kind="reinit-all", seed=4)
    wanted = request(
        root,
        model,
        task,
        start=start,
        mask=RandomMask(num_removed=K, seed=1),
        outputs=Outputs(carry=True),
        train_steps=1,
        lr_horizon_steps=1,
        warmup_steps=0,
        learning_rate=1e-12,
    )
    result = run(executor, wanted)
    head = Carried.from_bytes(read_artifact(artifact_ref(wanted, result, "carry.safetensors"))).head
    assert not np.any(np.abs(head["cls.predictions.bias"]) > 1e-6)


@pytest.fixture(scope="module")
def pooled(root: Path) -> ModelFacts:
    """A BERT whose pooler pre-training trained, with small weights that magnitude prunes."""
    folder = root / "pooled"
    config = BertConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    BertForPreTraining(config).save_pretrained(str(folder))
    model = resolve_model(ModelSpecYaml(name="tiny", source=str(folder)))
    assert model.prunable.has_pooler
    return model


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_theta0s_pooler_competes_or_is_kept(
    root: Path, toys: Toys, pooled: ModelFacts, executor: LocalExecutor, kind: str
) -> None:
    """Both policies: N, the pooler's fate, the counts of the proofs and the file's note."""
    place = toys[kind][1].place
    spec = {"name": "toy", "source": place.source, "max_length": 20}
    task = resolve_task(TaskSpec.model_validate(spec), HashSelect(), {"tiny": pooled})
    problem = task.identity.problem
    assert pooled.under("theta0-magnitude", problem) is pooled
    assert pooled.under("keep-all", "classification") is pooled
    kept = pooled.under("keep-all", problem)
    assert kept.identity.num_prunable == pooled.identity.num_prunable - 16 * 16
    theta0 = dict(iter_parameters(Path(pooled.place.folder)))[POOLER]
    for policy, model in (("theta0-magnitude", pooled), ("keep-all", kept)):
        dense = request(root, model, task, outputs=prune(K), learning_rate=1e-3)
        done = run(executor, dense)
        assert metadata_of(dense, done)["pooler"] == policy
        (name,) = done.masks
        ref = artifact_ref(dense, done, name)
        mask = read_mask(read_artifact(ref), model.prunable, ref.uri)
        assert mask.num_removed == K
        in_pooler = 0
        if policy == "theta0-magnitude":  # the smallest of theta_0's own values went first
            bits = mask.matrix(POOLER)
            in_pooler = int((~bits).sum())
            assert 0 < in_pooler < bits.size
            assert np.abs(theta0[~bits]).max() < np.abs(theta0[bits]).min()
        else:
            assert POOLER not in mask.prunable.names
        source = TrainedMask(parent=dense.spec.key, num_removed=K)
        child = request(root, model, task, mask=source, mask_file=ref, outputs=prune(2 * K))
        end = run(executor, child)
        assert end.input_mask is not None and end.input_mask.num_removed == K
        assert end.proof.num_masked_zero_in_model == K - in_pooler
        assert end.proof.num_masked_zero_in_masters == K - in_pooler
        after = artifact_ref(child, end, next(iter(end.masks)))
        later = read_mask(read_artifact(after), model.prunable, after.uri)
        assert later.num_removed == 2 * K and later.is_subset_of(mask)


@pytest.mark.slow
def test_bert_tiny_learns_wikitext(root: Path, executor: LocalExecutor) -> None:
    """The real checkpoint, whose word head is used, gains within some dozen steps."""
    folder = data_folder()
    model = resolve_model(
        ModelSpecYaml(name="tiny", source=str(folder / "models" / "bert-tiny-splade"))
    )
    some = (folder / "wikitext2" / "test.txt").read_text().splitlines(keepends=True)[:300]
    (root / "report.txt").write_text("".join(some))
    text = {"kind": "text", "train": str(folder / "wikitext2" / "valid.txt")}
    source = text | {"report": str(root / "report.txt")}
    task_spec = {"name": "wikitext", "source": source, "max_length": 64, "train_examples": 2000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TICKETS_CACHE", str(root / "user-cache"))
        rule = HashSelect(max_examples=50)
        task = resolve_task(TaskSpec.model_validate(task_spec), rule, {"tiny": model})
    assert len(task.identity.head_sha256) == 64
    steps = {"batch_size": 16, "learning_rate": 5e-4, "weight_decay": 0.0}
    before, after = (
        run(executor, request(root, model, task, train_steps=n, lr_horizon_steps=60, **steps))
        for n in (1, 60)
    )
    assert before.primary("report") < 0.15
    assert after.primary("report") > before.primary("report") + 0.15
    scores = [result.scores["report"].metrics["perplexity"] for result in (before, after)]
    assert scores[1] < 0.2 * scores[0]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_bf16_learns_too(root: Path, toys: Toys, executor: LocalExecutor, kind: str) -> None:
    """Losses are taken in fp32, and fall as in fp32."""
    steps = {"train_steps": 60, "lr_horizon_steps": 60, "weight_decay": 0.0}
    exact, rounded = (
        run(executor, request(root, *toys[kind], dtype=dtype, **steps))
        for dtype in ("fp32", "bf16")
    )
    first, last = exact.losses[0][1], exact.losses[-1][1]
    assert last < first
    assert rounded.losses[0][1] == pytest.approx(first, rel=0.05)
    assert rounded.losses[-1][1] == pytest.approx(last, abs=0.3)
