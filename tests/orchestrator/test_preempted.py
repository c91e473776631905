"""A rank that gets SIGTERM in the middle of its training: the retry ends with the same bits."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.state import list_actors

from cluster.ray_executor import RayExecutor
from cluster.session import Session
from orchestrator.driver import run_sweep
from orchestrator.journal import Journal, SweepInfo
from orchestrator.listeners import SilentListener
from orchestrator.policies import LadderPolicy
from orchestrator.retries import DEFAULT_BUDGETS, RetryRules
from orchestrator.store import Store
from search_spaces.contracts import (
    Compute,
    Failed,
    FailureClass,
    Progress,
    TrialRequest,
    TrialResult,
    attempt_folder,
)
from search_spaces.models import ModelFacts
from search_spaces.resolve import TaskFacts
from search_spaces.trial import Outputs, PruneOutput, RandomMask, Role, Trial
from tests.workers.interrupted import with_checkpoints
from tests.workers.requests import facts, request
from tests.workers.running import ProcessGang, run_here

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEPS, PREEMPT_AT, K = 1000, 100, 900
PRUNE = PruneOutput(pruner="global-magnitude", num_removed=2 * K)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFacts, TaskFacts]:
    return facts(tmp_path_factory.mktemp("preempted"))


class Reclaimer(SilentListener):
    """Sends SIGTERM to the last rank of the gang once its trial has come so far."""

    def __init__(self, rank: int) -> None:
        self._rank, self.failures, self.has_struck = rank, [], False

    def progress(self, progress: list[Progress]) -> None:
        if any(one.step >= PREEMPT_AT for one in progress) and not self.has_struck:
            self.has_struck = True
            address = str(ray.get_runtime_context().gcs_address)
            actors = list_actors(address=address, filters=[("state", "=", "ALIVE")], detail=True)
            (actor,) = [one for one in actors if one.name.endswith(f"-rank{self._rank}")]
            os.kill(actor.pid, signal.SIGTERM)

    def failed(self, trial: Trial, failed: Failed, will_retry: bool) -> None:
        self.failures.append(failed)


def run_on_ray(
    session: Session, wanted: TrialRequest, folder: Path, listener: SilentListener
) -> TrialResult:
    """Run the trial of a request as a sweep of its own, with retries at once."""
    store = Store(str(folder / "store"))
    role = Role(kind="round", model="tiny", task="toy", method="imp", seed=1, search_seed=1)
    trial = Trial(spec=wanted.spec, roles=(role,), outputs=wanted.outputs)

    def make_request(trial: Trial, attempt: str) -> TrialRequest:
        uri = attempt_folder(store.uri, trial.key, attempt)
        changed = wanted.model_copy(update={"attempt": attempt, "attempt_uri": uri})
        return with_checkpoints(changed)

    executor = RayExecutor(session, wanted.compute, 1)
    with Journal.open(folder / "journal.db", SweepInfo("toy", "h", ""), now=0.0) as journal:
        run_sweep(
            [trial],
            store,
            journal,
            executor,
            LadderPolicy(),
            DEFAULT_BUDGETS,
            listener,
            time.time,
            make_request,
            rules=RetryRules(base_s=0.0),
        )
    result = store.read(trial.key)
    assert result is not None, listener
    assert not Path(store.uri, "results", trial.key, "checkpoint").exists()
    return result


def run_undisturbed(wanted: TrialRequest) -> TrialResult:
    """Run the trial in processes of the test's own."""
    if wanted.compute.num_ranks == 1:
        return run_here(wanted)
    with ProcessGang(wanted.compute.num_ranks) as gang:
        return gang.run(wanted)[0]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_reclaimed_rank_costs_no_step_and_no_bit(
    ray_session: Session, toy: tuple[ModelFacts, TaskFacts], tmp_path: Path, num_ranks: int
) -> None:
    """It leaves as preempted after a step; the result says where it went on, and is the same."""
    changes: dict[str, Any] = {"train_steps": STEPS, "lr_horizon_steps": STEPS}
    dropout = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
    wanted = request(
        tmp_path,
        *toy,
        mask=RandomMask(num_removed=K, seed=3),
        outputs=Outputs(prunes=(PRUNE,)),
        compute=Compute(num_ranks=num_ranks),
        **changes,
        **dropout,
    )
    undisturbed = run_undisturbed(wanted)
    reclaimer = Reclaimer(num_ranks - 1)
    result = run_on_ray(ray_session, wanted, tmp_path / "reclaimed", reclaimer)
    (failed,) = reclaimer.failures
    assert failed.failure is FailureClass.PREEMPTED, failed.details
    assert PREEMPT_AT <= result.resumed_at_step < STEPS
    assert f"training was left after step {result.resumed_at_step}; the next" in failed.message
    assert result.artifacts == undisturbed.artifacts and result.masks == undisturbed.masks
    assert result.losses == undisturbed.losses and result.scores == undisturbed.scores
    assert result.proof == undisturbed.proof
    assert result.numerics == undisturbed.numerics
    assert result.num_train_tokens == undisturbed.num_train_tokens
