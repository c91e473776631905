"""Laws of trials that compute in bf16 over fp32 masters, on one rank and on two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from search_spaces.checkpoint import iter_parameters
from search_spaces.contracts import Compute, TrialRequest, TrialResult
from search_spaces.models import ModelFacts
from search_spaces.resolve import TaskFacts
from search_spaces.resuming import CheckpointsSpec
from search_spaces.trial import Outputs, PruneOutput, RandomMask, weights_artifact
from tests.workers.interrupted import checkpoint_of, with_checkpoints
from tests.workers.requests import request
from tests.workers.running import ProcessGang, artifact_ref, losses_of, run_here
from workers.checkpoint_file import names_of, tensors_of
from workers.kept_weights import KeptWeights
from workers.mask import Mask
from workers.pruners import global_magnitude, theta0_magnitude

K = 1000
NEAR = 5e-3  # losses; bf16 keeps 8 bits, and the largest difference seen here is 2e-4
OUTPUT = PruneOutput(pruner="global-magnitude", num_removed=2 * K)


def all_results(wanted: TrialRequest, gang: ProcessGang) -> list[TrialResult]:
    """Return each rank's result; rank 0's comes first."""
    return [run_here(wanted)] if wanted.compute.num_ranks == 1 else gang.run(wanted)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_bf16_keeps_the_proofs_and_stays_near_fp32(
    root: Path, toy: tuple[ModelFacts, TaskFacts], gang: ProcessGang, num_ranks: int
) -> None:
    """Masters start from theta_0 bit for bit, zeros stay zero, losses follow fp32, bits repeat."""

    def wanted(dtype: str, attempt: str) -> TrialRequest:
        return request(
            root,
            *toy,
            mask=RandomMask(num_removed=K, seed=3),
            outputs=Outputs(prunes=(OUTPUT,)),
            compute=Compute(num_ranks=num_ranks),
            attempt=attempt,
            dtype=dtype,
        )

    exact = all_results(wanted("fp32", "a001-00000001"), gang)[0]
    first = all_results(wanted("bf16", "a001-00000002"), gang)
    again = all_results(wanted("bf16", "a002-00000003"), gang)
    for result in first:
        assert result.proof == exact.proof
        assert result.proof.num_masked_zero_in_model == K
        assert result.proof.num_masked_zero_in_masters == K
        assert result.numerics.dtype.startswith("bf16")
    assert losses_of(first[0]) != losses_of(exact)
    assert losses_of(first[0]) == pytest.approx(losses_of(exact), abs=NEAR)
    assert losses_of(first[0]) == losses_of(again[0])
    assert first[0].artifacts == again[0].artifacts


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_ranking_reads_the_fp32_masters(
    root: Path, toy: tuple[ModelFacts, TaskFacts], gang: ProcessGang, num_ranks: int
) -> None:
    """Weights that training cannot move are ranked as theta_0 itself, not as its bf16 copy."""
    model, _ = toy
    wanted = request(
        root,
        *toy,
        outputs=Outputs(prunes=(OUTPUT,)),
        compute=Compute(num_ranks=num_ranks),
        attempt="a003-00000004",
        learning_rate=1e-30,  # below the last bit of every weight
        dtype="bf16",
    )
    theta0 = {name: values.copy() for name, values in iter_parameters(Path(model.place.folder))}
    rounded = {
        name: torch.from_numpy(values).bfloat16().float().numpy() for name, values in theta0.items()
    }
    found = all_results(wanted, gang)[0].masks[OUTPUT.artifact].mask
    expected = theta0_magnitude(theta0, model.prunable, 2 * K)
    ranked_in_bf16 = theta0_magnitude(rounded, model.prunable, 2 * K)
    assert (found.sha256, found.num_ties) == (expected.mask.sha256, expected.num_ties)
    assert ranked_in_bf16.num_ties > 10 * expected.num_ties  # why it matters
    assert ranked_in_bf16.mask.sha256 != found.sha256


def test_what_two_ranks_keep_is_what_the_owners_hold(
    root: Path, toy: tuple[ModelFacts, TaskFacts], gang: ProcessGang
) -> None:
    """Kept weights are the fp32 masters of both ranks, and masks are made from these."""
    model, _ = toy
    wanted = request(
        root,
        *toy,
        outputs=Outputs(prunes=(OUTPUT,), weights=(1, 8)),
        compute=Compute(num_ranks=2),
        attempt="a004-00000005",
        warmup_steps=0,
        dtype="bf16",
    )
    rules = CheckpointsSpec(when="always", every_s=1e-9)  # one is written after the first step
    wanted = with_checkpoints(wanted, rules)
    result = gang.run(wanted)[0]
    assert result.numerics.exchange == "bf16 to owners"
    folder = checkpoint_of(wanted)
    states = [tensors_of(bytearray((folder / names_of(rank)[0]).read_bytes())) for rank in (0, 1)]
    assert states[0].keys() & states[1].keys() == {"num_skipped"}
    owned = {**states[0], **states[1]}
    first, last = (
        KeptWeights.read(artifact_ref(wanted, result, weights_artifact(step))) for step in (1, 8)
    )
    for name, values in (first.backbone | first.head).items():
        (held,) = (t for n, t in owned.items() if n.startswith("master/") and n.endswith(name))
        assert held.numpy().tobytes() == values.tobytes(), name
    matrix = torch.from_numpy(first.backbone["encoder.layer.0.output.dense.weight"])
    assert not torch.equal(matrix, matrix.bfloat16().float())
    mask = global_magnitude(last.backbone, Mask.ones(model.prunable), OUTPUT.num_removed).mask
    assert mask.info().sha256 == result.masks[OUTPUT.artifact].mask.sha256
