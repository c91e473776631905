"""Trials that are interrupted and go on: bit for bit what an undisturbed one ends with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cluster.attempts import AttemptFailure
from cluster.local_executor import LocalExecutor
from search_spaces.contracts import Compute, Failed, FailureClass, TrialResult
from search_spaces.resuming import CheckpointsSpec
from search_spaces.trial import Outputs, weights_artifact
from tests.workers.interrupted import (
    MASK,
    PER_EPOCH,
    STEPS,
    InterruptedTrials,
    Toy,
    _notices,
    accumulating,
    checkpoint_of,
    cut,
    drifting,
    flip,
    folder_of_checkpoints,
    leave,
    leaving,
    same,
    staying,
    trial,
    with_checkpoints,
)
from tests.workers.running import ProcessGang, end_of, run
from workers.checkpoint_file import MANIFEST, read_manifest

__all__ = ["_notices", "accumulating"]  # fixtures
KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "masked": {"mask": MASK, "weight_decay": 0.0},  # then unused rows have no state either
    "bf16": {"mask": MASK, "dtype": "bf16"},
    "bucketed": {"sampler": "length-bucketed"},
}


@pytest.fixture(scope="module")
def undisturbed(root: Path, toy: Toy, accumulating: LocalExecutor) -> dict[str, TrialResult]:
    return {
        kind: run(accumulating, trial(root, toy, f"undisturbed-{kind}", **changes))
        for kind, changes in KINDS.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck))
@example(steps={PER_EPOCH}, number="an epoch's end")
@example(steps={2, 5, STEPS}, number="often")
@given(steps=st.sets(st.integers(1, STEPS), min_size=1, max_size=3), number=st.uuids())
def test_interrupted_anywhere_it_ends_with_the_same_bits(
    root: Path,
    toy: Toy,
    accumulating: LocalExecutor,
    undisturbed: dict[str, TrialResult],
    kind: str,
    steps: set[int],
    number: object,
) -> None:
    """Once or often, within an epoch, at its end, after the last step: weights, masks, scores."""
    wanted = with_checkpoints(trial(root, toy, f"{kind}-{number}", **KINDS[kind]))
    for count, step in enumerate(sorted(steps)):
        left = leave(accumulating, leaving(wanted, f"a00{count}-0000abcd", step))
        assert f"left after step {step}; the next attempt goes on from there" in left.message
    result = run(accumulating, staying(wanted, "a009-0000abcd"))
    assert result.resumed_at_step == max(steps)
    assert result.restart_reason == ""
    assert same(result) == same(undisturbed[kind])
    assert {weights_artifact(3), weights_artifact(STEPS)} < result.artifacts.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("num_ranks", "dtype"), [(1, "fp32"), (2, "fp32"), (2, "bf16")])
def test_processes_of_their_own_go_on_too(root: Path, toy: Toy, num_ranks: int, dtype: str) -> None:
    """Nothing of the processes that were taken away is needed; any rank may be told."""
    compute = Compute(num_ranks=num_ranks, micro_batch_size=4)
    changes: dict[str, Any] = {"compute": compute, "dtype": dtype, "mask": MASK}
    wanted = with_checkpoints(trial(root, toy, f"ranks-{num_ranks}-{dtype}", **changes))
    with ProcessGang(num_ranks, InterruptedTrials) as gang:
        apart = trial(root, toy, f"undisturbed-ranks-{num_ranks}-{dtype}", **changes)
        undisturbed = gang.run(apart)[0]
        if num_ranks > 1:  # only rank 0 writes the manifest, and here it cannot
            (folder_of_checkpoints(wanted) / MANIFEST).mkdir(parents=True)
            ends = gang.ends(leaving(wanted, "a000-0000abcd", 2, rank=1))
            assert "step 2; no checkpoint could be written: " in ends[0].message
            assert "step 2; rank 0 could not write the checkpoint" in ends[1].message
            (folder_of_checkpoints(wanted) / MANIFEST).rmdir()
        for step in (3, PER_EPOCH):
            attempt = leaving(wanted, f"a00{step}-0000abcd", step, rank=num_ranks - 1)
            ends = gang.ends(attempt)
            assert all(isinstance(end, AttemptFailure) for end in ends)
            assert {end.failure for end in ends} == {FailureClass.PREEMPTED}, ends
        if num_ranks > 1:
            ends = gang.ends(drifting(wanted, "a005-0000abcd", PER_EPOCH + 1, rank=1))
            assert {end.failure for end in ends} == {FailureClass.ERROR}, ends
            assert "After step 5 rank 1 has not the weights of rank 0" in ends[0].message
    with ProcessGang(num_ranks) as fresh:
        results = fresh.run(staying(wanted, "a009-0000abcd"))
    assert {result.resumed_at_step for result in results} == {PER_EPOCH}
    assert same(results[0]) == same(undisturbed)


def test_one_is_written_by_time_and_only_the_last_stays(
    root: Path, toy: Toy, accumulating: LocalExecutor
) -> None:
    """With no time between them each step writes one, the last step none."""
    wanted = trial(root, toy, "by-time")
    run(accumulating, with_checkpoints(wanted, CheckpointsSpec(when="always", every_s=1e-9)))
    folder = Path(wanted.attempt_uri).parents[1] / "checkpoint"
    manifest = read_manifest(str(folder))
    assert manifest is not None and manifest.step == STEPS - 1
    assert {path.name for path in folder.iterdir()} == {MANIFEST, manifest.folder}
    names = {path.name for path in (folder / manifest.folder).iterdir()}
    assert names == {info.name for info in manifest.files}
    assert names == {"state-0.safetensors", "rank-0.safetensors", "rank-0.json"}


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut state": (lambda one: cut(one / "state-0.safetensors"), "state-0.safetensors is damaged"),
    "flipped state": (
        lambda one: flip(one / "state-0.safetensors"),
        "state-0.safetensors is damaged",
    ),
    "flipped rank": (lambda one: flip(one / "rank-0.json"), "its file rank-0.json is damaged"),
    "lost rank": (lambda one: (one / "rank-0.json").unlink(), "its file rank-0.json is missing"),
    "cut manifest": (lambda one: cut(one.parent / MANIFEST), "its manifest is cut or damaged"),
    "flipped manifest": (lambda one: flip(one.parent / MANIFEST), "its manifest is cut or damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_does_not_count(
    root: Path,
    toy: Toy,
    accumulating: LocalExecutor,
    undisturbed: dict[str, TrialResult],
    damage: str,
) -> None:
    """The trial starts from its beginning, says why, and ends as if there had been none."""
    wanted = with_checkpoints(trial(root, toy, f"damage {damage}"))
    leave(accumulating, leaving(wanted, "a001-0000abcd", 3))
    act, reason = DAMAGES[damage]
    act(checkpoint_of(wanted))
    result = run(accumulating, staying(wanted, "a002-0000abcd"))
    assert result.resumed_at_step == 0
    assert reason in result.restart_reason and "does not count: " in result.restart_reason
    changes = {"restart_reason": ""}
    assert same(result.model_copy(update=changes)) == same(undisturbed["dense"])


def test_another_numerics_class_starts_from_the_beginning(
    root: Path, toy: Toy, accumulating: LocalExecutor
) -> None:
    """After memory ran out the micro-batch is another one: no exact result could come of it."""
    wanted = with_checkpoints(trial(root, toy, "class"))
    leave(accumulating, leaving(wanted, "a001-0000abcd", 3))
    smaller = wanted.model_copy(update={"compute": wanted.compute.with_micro_batch(4)})
    result = run(accumulating, staying(smaller, "a002-0000abcd"))
    assert result.resumed_at_step == 0
    assert result.restart_reason == (
        "the checkpoint after step 3 does not count: the numerics class is another now: "
        "micro_batch_size 4 instead of 8"
    )


def test_a_checkpoint_is_of_one_trial_and_of_what_it_was_asked_for(
    root: Path, toy: Toy, accumulating: LocalExecutor
) -> None:
    """Neither another trial's nor one that passed by weights that shall be kept is used."""
    wanted = with_checkpoints(trial(root, toy, "asked", outputs=Outputs(weights=(2,))))
    leave(accumulating, leaving(wanted, "a001-0000abcd", 3))
    more = wanted.model_copy(update={"outputs": Outputs(weights=(1, 2))})
    reason = run(accumulating, staying(more, "a002-0000abcd")).restart_reason
    assert reason.endswith("this sweep asks for weights-step-1.safetensors, which it passed by")
    other = trial(root, toy, "asked", seed=2).model_copy(update={"checkpoints": wanted.checkpoints})
    reason = run(accumulating, staying(other, "a003-0000abcd")).restart_reason
    assert reason == "the checkpoint after step 3 does not count: it is of another trial"


def test_what_diverged_is_not_gone_on_from(
    root: Path, toy: Toy, accumulating: LocalExecutor
) -> None:
    """A retry begins anew, and where there is none no bytes stay behind."""
    rules = CheckpointsSpec(when="always", every_s=1e-9)
    wanted = with_checkpoints(trial(root, toy, "diverged", learning_rate=1e30), rules)
    ended = end_of(accumulating, wanted)
    assert isinstance(ended, Failed) and ended.failure is FailureClass.DIVERGED
    assert "at step 1," not in ended.message  # after which there was one
    assert not folder_of_checkpoints(wanted).exists()


def test_kept_weights_that_are_gone_cost_the_checkpoint(
    root: Path, toy: Toy, accumulating: LocalExecutor
) -> None:
    wanted = with_checkpoints(trial(root, toy, "gone", outputs=Outputs(weights=(2,))))
    first = leaving(wanted, "a001-0000abcd", 3)
    leave(accumulating, first)
    Path(first.attempt_uri, weights_artifact(2)).unlink()
    result = run(accumulating, staying(wanted, "a002-0000abcd"))
    assert "which was kept on the way, is gone" in result.restart_reason
    assert weights_artifact(2) in result.artifacts


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (CheckpointsSpec(), "trains too briefly for a checkpoint (checkpoints.min_train_s)"),
        (CheckpointsSpec(when="never"), "no checkpoint is written of this trial"),
    ],
)
def test_a_short_trial_leaves_without_one(
    root: Path, toy: Toy, accumulating: LocalExecutor, rules: CheckpointsSpec, said: str
) -> None:
    """It is preempted all the same, and the next attempt begins anew without a complaint."""
    wanted = with_checkpoints(trial(root, toy, f"short {rules.when}"), rules)
    outcome = end_of(accumulating, leaving(wanted, "a001-0000abcd", 3))
    assert isinstance(outcome, Failed) and outcome.failure is FailureClass.PREEMPTED
    assert said in outcome.message
    assert wanted.checkpoints and not Path(wanted.checkpoints.uri).exists()
    result = run(accumulating, staying(wanted, "a002-0000abcd"))
    assert (result.resumed_at_step, result.restart_reason) == (0, "")


def test_a_trial_is_worth_a_checkpoint_by_its_own_measure(
    root: Path, toy: Toy, accumulating: LocalExecutor
) -> None:
    """`auto` multiplies the seconds of a step by the number of steps."""
    wanted = with_checkpoints(trial(root, toy, "auto"), CheckpointsSpec(min_train_s=1e-6))
    leave(accumulating, leaving(wanted, "a001-0000abcd", 3))
    result = run(accumulating, staying(wanted, "a002-0000abcd"))
    assert result.resumed_at_step == 3
    assert result.seconds["total"] > result.seconds["train"] > 0


def test_a_full_store_costs_no_trial(root: Path, toy: Toy, accumulating: LocalExecutor) -> None:
    """What cannot be written is only told of; a trial that leaves says that nothing is kept."""
    wanted = with_checkpoints(trial(root, toy, "full"), CheckpointsSpec(when="always", every_s=0.1))
    assert wanted.checkpoints
    place = Path(wanted.checkpoints.uri)
    place.parent.mkdir(parents=True)
    place.write_text("a file where the folder should be")
    left = end_of(accumulating, leaving(wanted, "a001-0000abcd", 3))
    assert isinstance(left, Failed) and left.failure is FailureClass.PREEMPTED
    assert "no checkpoint could be written: " in left.message
    assert run(accumulating, staying(wanted, "a002-0000abcd")).resumed_at_step == 0
