"""Trials on hidden words and on answers, shared out to ranks, micro-batches and layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.contracts import Compute, TrialRequest
from search_spaces.trial import RandomMask
from tests.workers.requests import request
from tests.workers.running import ProcessGang, losses_of, run_here
from tests.workers.token_tasks import KINDS, Toys

K = 1000


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("decay", [0.0, 0.01], ids=["no decay", "decay"])
def test_two_ranks_and_micro_batches_train_as_one(
    root: Path, toys: Toys, gang: ProcessGang, kind: str, decay: float
) -> None:
    """Sums over all ranks' counts: the losses and scores of one rank (fp32, no dropout)."""

    def wanted(compute: Compute) -> TrialRequest:
        changes = {"batch_size": 8, "train_steps": 12, "lr_horizon_steps": 12}
        mask = RandomMask(num_removed=K, seed=3)
        return request(root, *toys[kind], mask=mask, compute=compute, weight_decay=decay, **changes)

    expected = run_here(wanted(Compute()))
    small = run_here(wanted(Compute(micro_batch_size=2)))
    assert losses_of(small) == pytest.approx(losses_of(expected), abs=1e-5)
    results = gang.run(wanted(Compute(num_ranks=2)))
    results += gang.run(wanted(Compute(num_ranks=2, micro_batch_size=1)))
    for result in results:
        assert losses_of(result) == pytest.approx(losses_of(expected), abs=1e-5)
        assert result.num_train_tokens == expected.num_train_tokens
        for split, score in expected.scores.items():
            assert result.scores[split].metrics == pytest.approx(score.metrics, rel=1e-4)
        assert result.proof == expected.proof


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_both_layouts_train_alike(root: Path, toys: Toys, kind: str) -> None:
    found = [
        run_here(request(root, *toys[kind], compute=Compute(layout=layout)))
        for layout in ("unpadded", "padded")
    ]
    assert losses_of(found[0]) == pytest.approx(losses_of(found[1]), abs=1e-5)
    for split, score in found[0].scores.items():
        assert found[1].scores[split].metrics == pytest.approx(score.metrics, rel=1e-4)
