"""Trials that are taken away after a step: the label of the request says which, on which rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import workers.checkpoint
from cluster.local_executor import LocalExecutor
from search_spaces.contracts import (
    Compute,
    Failed,
    FailureClass,
    Reporter,
    TrialRequest,
    TrialResult,
    checkpoint_folder,
)
from search_spaces.models import ModelFacts
from search_spaces.resolve import TaskFacts
from search_spaces.resuming import CheckpointPlan, CheckpointsSpec
from search_spaces.trial import Outputs, PruneOutput, RandomMask
from tests.workers.requests import request
from tests.workers.running import end_of
from workers import notice
from workers.checkpoint import Checkpoints
from workers.checkpoint_file import read_manifest
from workers.finetune import SoFar
from workers.trial import TrialRunner

ALWAYS = CheckpointsSpec(when="always")
Toy = tuple[ModelFacts, TaskFacts]
STEPS, PER_EPOCH, K = 8, 4, 900
PRUNE = PruneOutput(pruner="global-magnitude", num_removed=2 * K)
OF_PROCESS = {"attempt", "seconds", "peak_memory_gib", "started_at", "resumed_at_step"}
MASK = RandomMask(num_removed=K, seed=3)


def leaving(wanted: TrialRequest, attempt: str, step: int, rank: int = 0) -> TrialRequest:
    """Return a request for an attempt that is given notice during a step."""
    return _renamed(wanted, attempt).model_copy(update={"label": f"leave:{step}:{rank}"})


def drifting(wanted: TrialRequest, attempt: str, step: int, rank: int) -> TrialRequest:
    """Return a request for an attempt one of whose ranks has another weight after a step."""
    return _renamed(wanted, attempt).model_copy(update={"label": f"drift:{step}:{rank}"})


def staying(wanted: TrialRequest, attempt: str) -> TrialRequest:
    """Return a request for another attempt, which is left alone."""
    return _renamed(wanted, attempt)


def with_checkpoints(wanted: TrialRequest, rules: CheckpointsSpec = ALWAYS) -> TrialRequest:
    """Return a request with checkpoints in the store that it writes to."""
    store = wanted.attempt_uri.partition("/results/")[0]
    plan = CheckpointPlan(uri=checkpoint_folder(store, wanted.spec.key), rules=rules)
    return wanted.model_copy(update={"checkpoints": plan})


@contextmanager
def notices() -> Iterator[None]:
    """Within, requests of ``leaving`` are given notice in this process."""
    original = Checkpoints.at_boundary

    def at_boundary(self: Checkpoints, so_far: SoFar) -> None:
        action, _, where = self._request.label.partition(":")
        if action == "leave" and where == f"{so_far.step}:{self._shard.rank}":
            notice.give()
        if action == "drift" and where == f"{so_far.step}:{self._shard.rank}":
            next(iter(self._engine.classifier.parameters())).data.view(-1)[0] += 1e-6
            notice.give()
        try:
            original(self, so_far)
        finally:
            notice.withdraw()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers.checkpoint, "LOOK_S", 1e-9)  # several ranks look after every step too
        patch.setattr(Checkpoints, "at_boundary", at_boundary)
        yield


@pytest.fixture(autouse=True)
def _notices() -> Iterator[None]:
    """In each test of a module that imports this, ``notices`` are given."""
    with notices():
        yield


@pytest.fixture(scope="module")
def accumulating() -> Iterator[LocalExecutor]:
    """An executor of one warm process, for trials of two micro-batches a step."""
    executor = LocalExecutor(Compute())
    yield executor
    executor.close()


class InterruptedTrials:
    """What a rank of a gang runs."""

    def __init__(self) -> None:
        self._runner = TrialRunner()

    def __call__(self, request: TrialRequest, reporter: Reporter) -> TrialResult:
        with notices():
            return self._runner(request, reporter)


def _renamed(wanted: TrialRequest, attempt: str) -> TrialRequest:
    uri = wanted.attempt_uri.removesuffix(wanted.attempt) + attempt
    return wanted.model_copy(update={"attempt": attempt, "attempt_uri": uri})


def trial(root: Path, toy: Toy, name: str, **changes: Any) -> TrialRequest:
    """Return a trial with dropout and two micro-batches a step, in a store of its own."""
    options: dict[str, Any] = {
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
        "compute": Compute(micro_batch_size=8),
        "outputs": Outputs(prunes=(PRUNE,), weights=(3, STEPS)),
    }
    return request(root / name, *toy, **(options | changes))


def same(result: TrialResult) -> dict[str, Any]:
    """Return all that must be equal, the hashes of masks and weights among it."""
    return result.model_dump(exclude=OF_PROCESS)


def leave(executor: LocalExecutor, wanted: TrialRequest) -> Failed:
    """Run an attempt that is taken away."""
    outcome = end_of(executor, wanted)
    assert isinstance(outcome, Failed), outcome
    assert outcome.failure is FailureClass.PREEMPTED, outcome.details
    return outcome


def folder_of_checkpoints(wanted: TrialRequest) -> Path:
    """Return where a trial's checkpoints lie."""
    assert wanted.checkpoints
    return Path(wanted.checkpoints.uri)


def checkpoint_of(wanted: TrialRequest) -> Path:
    """Return the folder of the one checkpoint."""
    folder = folder_of_checkpoints(wanted)
    manifest = read_manifest(str(folder))
    assert manifest is not None
    return folder / manifest.folder


def cut(path: Path) -> None:
    """Take a file's last byte away."""
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
