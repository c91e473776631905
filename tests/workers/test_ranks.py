"""Laws of a trial that several ranks share: real processes, gloo and DeepSpeed."""

from __future__ import annotations

import multiprocessing
import os
import time
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cluster.attempts import AttemptFailure, TrialFunction, WarmTrials
from search_spaces.checkpoint import iter_parameters
from search_spaces.contracts import Compute, FailureClass
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.outages import LIMIT_S as LIMIT_OF_OUTAGES_S
from search_spaces.resolve import TaskFacts
from search_spaces.run_specs import HangLimits
from search_spaces.trial import Outputs, PruneOutput, RandomMask, TrainedMask
from tests.workers.requests import facts, request
from tests.workers.running import ProcessGang, artifact_ref, free_port, losses_of, run_here
from workers import ranks
from workers.finetune import Shard
from workers.ranks import RankEnv, connect

K = 1000
TWO_RANKS = Compute(num_ranks=2)
LIMIT_S = 6  # of a wait, in tests of limits
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
    assert expected.numerics.exchange == ""
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
        assert result.numerics.exchange == "fp32 to owners"


def meet_late(env: RankEnv, pipe: Connection, gate: Barrier) -> None:
    """Join a gang whose rank 0 then makes the other one wait, and at last dies."""
    import deepspeed  # noqa: F401  # the seconds of the import are not those of the meeting

    ranks.CONNECT_TIMEOUT_S = LIMIT_S
    gate.wait()
    connect(env)
    total = torch.ones(1)
    if env.rank == 0:
        time.sleep(LIMIT_S + 2)
    torch.distributed.all_reduce(total)
    pipe.send(total.item())
    if env.rank == 0:
        os._exit(1)
    begin_s = time.monotonic()
    try:
        torch.distributed.all_reduce(total)
    except RuntimeError as error:
        pipe.send((str(error), time.monotonic() - begin_s))


def test_ranks_wait_for_a_slow_one_and_not_for_a_dead_one() -> None:
    """The time to find each other limits no later wait; a peer that died ends one at once."""
    spawn, port = multiprocessing.get_context("spawn"), free_port()
    gate = spawn.Barrier(2)
    pipes, processes = [], []
    for rank in range(2):
        ours, theirs = spawn.Pipe()
        env = RankEnv(rank=rank, world_size=2, master_port=port)
        process = spawn.Process(target=meet_late, args=(env, theirs, gate), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        assert [pipe.recv() for pipe in pipes] == [2.0, 2.0]
        message, waited_s = pipes[1].recv()
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert "Connection closed by peer" in message or "reset" in message
    assert waited_s < 60


def test_a_wait_outlasts_every_limit_of_a_hang() -> None:
    """The watchdog is first; and torch's store counts milliseconds in 32 bits."""
    hang_limits = dict(HangLimits()).values()
    assert max(*hang_limits, LIMIT_OF_OUTAGES_S) < ranks.WAIT_TIMEOUT_S < 2**31 / 1000


def trials_with_a_slow_load() -> TrialFunction:
    """Make rank 1 read for longer than groups wait that DeepSpeed makes for itself."""
    import torch.distributed.distributed_c10d as groups

    from workers import engine

    check = engine._check_theta0

    def slow(*args: Any) -> None:
        if torch.distributed.get_rank() == 1:
            time.sleep(LIMIT_S + 2)
        check(*args)

    engine._check_theta0 = slow
    groups.default_pg_timeout = timedelta(seconds=LIMIT_S)
    return WarmTrials()


def test_a_rank_may_load_for_longer_than_its_peer(
    root: Path, toy: tuple[ModelFacts, TaskFacts]
) -> None:
    """All of them meet before DeepSpeed makes its groups."""
    with ProcessGang(2, trials_with_a_slow_load) as gang:
        assert len(gang.run(request(root, *toy, compute=TWO_RANKS))) == 2


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
