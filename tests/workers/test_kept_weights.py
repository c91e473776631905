"""Trials that start from another trial's weights: late rewinding, and none at all (rule 5, 6)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.local_executor import LocalExecutor
from search_spaces.contracts import ArtifactRef, Failed, FailureClass, TrialRequest, TrialResult
from search_spaces.models import ModelFacts
from search_spaces.resolve import TaskFacts
from search_spaces.trial import (
    Outputs,
    PruneOutput,
    RandomMask,
    SavedWeights,
    TrainedMask,
    weights_artifact,
)
from tests.workers.requests import request
from tests.workers.running import artifact_ref, end_of, run
from workers.kept_weights import KeptWeights

STEPS, REWIND = 8, 3
DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
Toy = tuple[ModelFacts, TaskFacts]
Dense = tuple[TrialRequest, TrialResult]


@pytest.fixture(scope="module")
def dense(root: Path, toy: Toy, executor: LocalExecutor) -> Dense:
    """A dense run that keeps its weights after steps 3 and 8, and prunes."""
    prune = PruneOutput(pruner="global-magnitude", num_removed=500)
    outputs = Outputs(weights=(REWIND, STEPS), prunes=(prune,))
    wanted = request(root, *toy, outputs=outputs, **DROPOUT)
    return wanted, run(executor, wanted)


def kept(dense: Dense, step: int) -> ArtifactRef:
    return artifact_ref(*dense, weights_artifact(step))


def test_what_is_kept_is_what_a_run_of_so_many_steps_ends_with(
    root: Path, toy: Toy, executor: LocalExecutor, dense: Dense
) -> None:
    """Bit for bit, head included: keeping weights disturbs nothing."""
    shorter = request(root, *toy, outputs=Outputs(weights=(REWIND,)), train_steps=REWIND, **DROPOUT)
    ended = run(executor, shorter)
    ours = KeptWeights.read(kept(dense, REWIND))
    theirs = KeptWeights.read(artifact_ref(shorter, ended, weights_artifact(REWIND)))
    for mine, other in ((ours.backbone, theirs.backbone), (ours.head, theirs.head)):
        assert mine.keys() == other.keys() and mine
        assert all(np.array_equal(mine[name], other[name]) for name in mine)
    assert ended.losses == dense[1].losses[:REWIND]


def test_late_rewinding_goes_on_with_order_rate_and_dropout(
    root: Path, toy: Toy, executor: LocalExecutor, dense: Dense
) -> None:
    """Unmasked, the first loss after step 3 is the dense run's own; its moments begin at zero."""
    start = SavedWeights(kind="resumed", parent=dense[0].spec.key, step=REWIND)
    wanted = request(root, *toy, start=start, start_file=kept(dense, REWIND), **DROPOUT)
    result = run(executor, wanted)
    assert [step for step, _ in result.losses] == list(range(REWIND + 1, STEPS + 1))
    assert result.losses[0] == dense[1].losses[REWIND]
    assert result.losses[1:] != dense[1].losses[REWIND + 1 :]
    assert result.num_steps == STEPS - REWIND
    assert result.proof.num_start_tensors_equal_theta0 == len(
        KeptWeights.read(kept(dense, REWIND)).backbone
    )


def test_without_rewinding_the_trained_weights_go_on_under_the_new_mask(
    root: Path, toy: Toy, executor: LocalExecutor, dense: Dense
) -> None:
    """All steps anew from the trained weights x mask, masked weights exactly zero."""
    start = SavedWeights(kind="inherited", parent=dense[0].spec.key, step=STEPS)
    mask = TrainedMask(parent=dense[0].spec.key, num_removed=500)
    wanted = request(
        root,
        *toy,
        mask=mask,
        mask_file=artifact_ref(*dense, "mask-global-magnitude-500.arrow"),
        start=start,
        start_file=kept(dense, STEPS),
        outputs=Outputs(weights=(STEPS,)),
    )
    result = run(executor, wanted)
    assert [step for step, _ in result.losses] == list(range(1, STEPS + 1))
    assert result.losses[0][1] < dense[1].losses[0][1]  # it had learned already
    assert result.proof.num_masked_zero_in_masters == 500
    ended = KeptWeights.read(artifact_ref(wanted, result, weights_artifact(STEPS)))
    prunable = toy[0].prunable.names
    assert sum(np.count_nonzero(ended.backbone[name] == 0) for name in prunable) == 500


def test_a_mask_applies_to_a_rewound_start(
    root: Path, toy: Toy, executor: LocalExecutor, dense: Dense
) -> None:
    """theta_k x mask is proved like theta_0 x mask."""
    start = SavedWeights(kind="resumed", parent=dense[0].spec.key, step=REWIND)
    mask = RandomMask(num_removed=700, seed=2)
    wanted = request(root, *toy, mask=mask, start=start, start_file=kept(dense, REWIND))
    assert run(executor, wanted).proof.num_masked_zero_in_model == 700


def test_damaged_weights_are_named(
    root: Path, toy: Toy, executor: LocalExecutor, dense: Dense
) -> None:
    """A file that is not what was committed fails the trial as a user error, with a remedy."""
    file = kept(dense, REWIND)
    wrong = ArtifactRef(uri=file.uri, sha256="0" * 64)
    start = SavedWeights(kind="resumed", parent=dense[0].spec.key, step=REWIND)
    end = end_of(executor, request(root, *toy, start=start, start_file=wrong, seed=9))
    assert isinstance(end, Failed)
    assert end.failure is FailureClass.USER_ERROR
    assert "the file is damaged" in end.message and "run the sweep again" in end.message
