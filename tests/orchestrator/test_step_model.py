"""The modelled step: what is split over ranks, what is not, and what travels between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.costs import modelled_step_s
from orchestrator.step_model import StepWork, modelled_s
from search_spaces.contracts import Compute
from tests.orchestrator.factories import NUM_PRUNABLE, make_trial

BERT_LARGE = StepWork(flop=2.3e12, num_moving=335e6, num_survivors=0, dtype="bf16")
WORKS = st.builds(
    StepWork,
    flop=st.floats(1e9, 1e14),
    num_moving=st.floats(1e6, 1e9),
    num_survivors=st.just(0),
    dtype=st.sampled_from(["fp32", "bf16"]),
)


def gang(num_ranks: int, num_gpus: float = 1, num_threads: int = 1) -> Compute:
    return Compute(num_ranks=num_ranks, num_gpus_per_rank=num_gpus, num_threads=num_threads)


def test_one_gpu_computes_and_moves():
    """2.3 TFLOP at 474 TFLOP/s; 44 bytes of each weight at 3.84 TB/s; nothing travels."""
    assert modelled_s(BERT_LARGE, gang(1)) == pytest.approx(2.3 / 474 + 335e6 * 44 / 3.84e12)


def test_eight_gpus_split_all_but_what_each_takes_and_writes():
    """10 bytes more stay; gradients travel to 7 of 8 owners, weights to all; ten calls."""
    stays = 335e6 * (10 + 44 / 8) / 3.84e12
    travels = (7 / 8 + 1) * 335e6 * 2 / 360e9 + 10 * 10e-6
    assert modelled_s(BERT_LARGE, gang(8)) == pytest.approx(2.3 / 474 / 8 + stays + travels)


def test_survivors_cost_their_places():
    """26 bytes each in bf16, so that at half the weights a step moves little less than dense."""
    half = StepWork(flop=0, num_moving=100e6, num_survivors=100e6, dtype="bf16")
    assert modelled_s(half, gang(1)) == pytest.approx(100e6 * 70 / 3.84e12)
    exact = StepWork(flop=0, num_moving=100e6, num_survivors=100e6, dtype="fp32")
    assert modelled_s(exact, gang(1)) == pytest.approx(100e6 * 66 / 3.84e12)


def test_ranks_on_cpus_exchange_over_a_network():
    work = StepWork(flop=1e12, num_moving=1e7, num_survivors=0, dtype="fp32")
    expected = 1e12 / (85e9 * 2 * 2) + 0.6 * 5e-9 * 1e7 + 1.5 * 4e7 / 1e9
    assert modelled_s(work, gang(2, 0, 2)) == pytest.approx(expected)


@given(work=WORKS, num_ranks=st.sampled_from([2, 4, 8]), num_gpus=st.sampled_from([0, 1]))
def test_ranks_are_never_better_than_ideal(work, num_ranks, num_gpus):
    """Device-seconds of a step only grow with the gang: more GPUs are never cheaper."""
    assert num_ranks * modelled_s(work, gang(num_ranks, num_gpus)) >= modelled_s(
        work, gang(1, num_gpus)
    )


def test_a_mask_leaves_fewer_weights_to_move():
    """A trial's moving weights are the prunable ones without those that its mask removes."""
    parent = make_trial()
    pruned = make_trial(parent=parent.key, num_removed=900)
    left = NUM_PRUNABLE - 900
    work = StepWork(115_200, left, left, "fp32")
    assert modelled_step_s(pruned.spec, gang(1)) == modelled_s(work, gang(1))
