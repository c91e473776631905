"""Trials that are taken away after a step: the label of the request says which, on which rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import workers.checkpoint
from search_spaces.contracts import (
    Reporter,
    TrialRequest,
    TrialResult,
    checkpoint_folder,
)
from search_spaces.resuming import CheckpointPlan, CheckpointsSpec
from workers import notice
from workers.checkpoint import Checkpoints
from workers.finetune import SoFar
from workers.trial import TrialRunner

ALWAYS = CheckpointsSpec(when="always")


def leaving(wanted: TrialRequest, attempt: str, step: int, rank: int = 0) -> TrialRequest:
    """Return a request for an attempt that is given notice during a step."""
    return _renamed(wanted, attempt).model_copy(update={"label": f"leave:{step}:{rank}"})


def drifting(wanted: TrialRequest, attempt: str, step: int, rank: int) -> TrialRequest:
    """Return a request for an attempt one of whose ranks has another state after a step."""
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
            self._engine.optimizer.state_tensors()["num_skipped"] += 1e-6
            notice.give()
        try:
            original(self, so_far)
        finally:
            notice.withdraw()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers.checkpoint, "LOOK_S", 1e-9)  # several ranks look after every step too
        patch.setattr(Checkpoints, "at_boundary", at_boundary)
        yield


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
