"""Laws of a trial that several ranks share: real processes, gloo and DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cluster.attempts import AttemptFailure
from search_spaces.checkpoint import iter_parameters
from search_spaces.contracts import Compute, FailureClass
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.resolve import TaskFacts
from search_spaces.trial import Outputs, PruneOutput, RandomMask, TrainedMask
from tests.workers.requests import facts, request
from tests.workers.running import ProcessGang, artifact_ref, losses_of, run_here
from workers.finetune import Shard

K = 1000
TWO_RANKS = Compute(num_ranks=2)
NUM_TRAIN = 37  # 4 batches of 8 and one of 5; or 3 of 12 and one of 1
OF_RANK_0 = {"masks", "artifacts"}  # it alone writes files
OF_PROCESS = {"seconds", "peak_memory_gib", "started_at"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def toy(root: Path) -> tuple[ModelFacts, TaskFacts]:
    model, task = facts(root, num_train=41)  # of which 4 are held out for the select split
    assert task.identity.num_train_examples == NUM_TRAIN
    return model, task


@given(
    num_examples=st.integers(1, 48),
    num_ranks=st.integers(1, 4),
    micro_batch=st.integers(1, 4),
    num_micro=st.integers(1, 3),
)
def test_ranks_share_out_a_batch_exactly_once(
    num_examples: int, num_ranks: int, micro_batch: int, num_micro: int
) -> None:
    """Every example of a batch, full or not, goes to one rank once; all ranks step as often."""
    batch_size = num_ranks * micro_batch * num_micro
    indices = np.arange(100, 100 + min(num_examples, batch_size))
    shares = [
        list(Shard(rank, num_ranks, micro_batch).parts(indices, batch_size))
        for rank in range(num_ranks)
    ]
    assert {len(parts) for parts in shares} == {num_micro}
    assert [i for parts in shares for part in parts for i in part] == list(indices)


@pytest.mark.parametrize(
    ("batch_size", "train_steps"),
    [(8, 10), (12, 8)],
    ids=["last batch 4 + 1", "last batch 1 + 0"],
)
def test_two_ranks_train_as_one(
    root: Path,
    toy: tuple[ModelFacts, TaskFacts],
    gang: ProcessGang,
    batch_size: int,
    train_steps: int,
) -> None:
    """Two epochs give the losses, scores, tokens and proofs of one rank (fp32, no dropout)."""

    def wanted(compute: Compute) -> Any:
        return request(
            root,
            *toy,
            mask=RandomMask(num_removed=K, seed=3),
            compute=compute,
            batch_size=batch_size,
            train_steps=train_steps,
            lr_horizon_steps=train_steps,
        )

    expected, results = run_here(wanted(Compute())), gang.run(wanted(TWO_RANKS))
    ignored = OF_RANK_0 | OF_PROCESS
    assert results[0].model_dump(exclude=ignored) == results[1].model_dump(exclude=ignored)
    for result in results:
        assert losses_of(result) == pytest.approx(losses_of(expected), abs=1e-5)
        assert result.scores == expected.scores
        assert result.num_train_tokens == expected.num_train_tokens
        assert result.proof == expected.proof
        assert result.proof.num_masked_zero_in_model == K
        assert result.proof.num_masked_zero_in_masters == K
        assert result.numerics.num_ranks == 2


def test_two_ranks_repeat_their_mask_bits(
    root: Path, toy: tuple[ModelFacts, TaskFacts], gang: ProcessGang
) -> None:
    """With dropout, an attempt repeated on a warm gang leaves a lineage of the same masks."""
    model, task = toy
    outputs = [
        Outputs(prunes=(PruneOutput(pruner="global-magnitude", num_removed=k),)) for k in (K, 2 * K)
    ]
    names = [output.prunes[0].artifact for output in outputs]
    shas = []
    for seed, attempt in ((1, "a001-00000001"), (1, "a002-00000002"), (2, "a001-00000003")):

        def wanted(output: Outputs, seed: int = seed, attempt: str = attempt, **of: Any) -> Any:
            return request(
                root,
                model,
                task,
                outputs=output,
                seed=seed,
                attempt=attempt,
                compute=TWO_RANKS,
                hidden_dropout=0.1,
                attention_dropout=0.1,
                **of,
            )

        dense = wanted(outputs[0])
        first = gang.run(dense)[0]
        source = TrainedMask(parent=dense.spec.key, num_removed=K)
        ref = artifact_ref(dense, first, names[0])
        second = gang.run(wanted(outputs[1], mask=source, mask_file=ref))[0]
        assert second.proof.num_masked_zero_in_masters == K
        shas.append((first.artifacts[names[0]].sha256, second.artifacts[names[1]].sha256))
    assert shas[0] == shas[1]
    assert not set(shas[0]) & set(shas[2])


def test_a_negative_zero_of_theta0_survives_the_gathering_of_masters(
    root: Path, toy: tuple[ModelFacts, TaskFacts], gang: ProcessGang
) -> None:
    """The rewind proof compares bits over ranks too: a sum of floats would lose the sign of -0.0.

    Checkpoints that were once stored in fp16 have such weights, where small ones underflowed.
    """
    folder = root / "negative-zero"
    folder.mkdir()
    for file in Path(toy[0].place.folder).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    for values in weights.values():
        values.view(-1)[:3] = -0.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = resolve_model(ModelSpecYaml(name="tiny", source=str(folder)))
    for result in gang.run(request(root, model, toy[1], compute=TWO_RANKS)):
        assert result.proof.num_start_tensors_equal_theta0 == len(list(iter_parameters(folder)))


def test_a_divergence_is_told_by_every_rank(
    root: Path, toy: tuple[ModelFacts, TaskFacts], gang: ProcessGang
) -> None:
    """No rank waits for another that gave up: all end the trial at the same step."""
    wanted = request(root, *toy, compute=TWO_RANKS, learning_rate=1e38, max_grad_norm=0.0)
    ends = [end for end in gang.ends(wanted) if isinstance(end, AttemptFailure)]
    assert [end.failure for end in ends] == [FailureClass.DIVERGED] * 2
    assert ends[0].message == ends[1].message
    assert gang.run(request(root, *toy, compute=TWO_RANKS))  # and the gang goes on


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_micro_batches_change_no_loss(
    root: Path, toy: tuple[ModelFacts, TaskFacts], gang: ProcessGang, num_ranks: int
) -> None:
    """Micro-batches of 2 and 4 and the whole share give equal losses (fp32, no dropout)."""
    found = []
    for size in (None, 4, 2):
        compute = Compute(num_ranks=num_ranks, micro_batch_size=size)
        wanted = request(root, *toy, compute=compute, batch_size=16)  # the last batch: 5 examples
        result = run_here(wanted) if num_ranks == 1 else gang.run(wanted)[0]
        assert result.numerics.micro_batch_size == (size or 16 // num_ranks)
        found.append(losses_of(result))
    assert found[1] == pytest.approx(found[0], abs=1e-6)
    assert found[2] == pytest.approx(found[0], abs=1e-6)
