"""Late answers: an attempt that was given up or replaced changes nothing any more."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver import run_sweep
from orchestrator.journal import Journal, SweepInfo
from orchestrator.lease import Lease, Timing
from orchestrator.lease_record import LeaseRecord
from orchestrator.policies import LadderPolicy
from orchestrator.retries import DEFAULT_BUDGETS
from orchestrator.returned import Returned
from orchestrator.storage import Storage
from orchestrator.store import Store
from search_spaces.contracts import Failed, FailureClass, Outcome, Succeeded, TrialState
from search_spaces.errors import UserError
from tests.orchestrator.factories import finish, make_lineage, make_request, make_trial
from tests.orchestrator.simulated import FakeClock, SimulatedExecutor
from tests.orchestrator.world import SWEEP, World


class Late(SimulatedExecutor):
    """Calls the first attempt dead, and returns its answer after all beside the second's."""

    answer: str = "well"

    def _end(self, request: Any) -> Outcome:
        if len(self.submitted) == 1:
            self._late = super()._end(request)
            return self._failed(request.spec.key, request.attempt)
        return super()._end(request)

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes = super().wait(timeout_s)
        if len(self.submitted) == 2 and self._late:
            late, self._late = self._late, None
            if self.answer == "badly":
                late = self._failed(late.trial_key, late.attempt)
            return [late, *outcomes]
        return outcomes

    @staticmethod
    def _failed(key: str, attempt: str) -> Failed:
        failure = FailureClass.INFRASTRUCTURE
        return Failed(trial_key=key, attempt=attempt, failure=failure, message="no sign of life")


class LateAndBad(Late):
    answer = "badly"


@pytest.mark.parametrize(("executor", "answer"), [(Late, "succeeded"), (LateAndBad, "failed")])
def test_a_replaced_attempts_answer_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, executor: type[Late], answer: str
) -> None:
    """Good or bad, it neither ends nor fails the attempt that runs; journal and people are told."""
    trial, world = make_trial(prunes=(100,)), World(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert world.run([trial], executor=executor).succeeded
    first, second = (attempt for _, attempt in world.executor.submitted)
    assert world.store.read(trial.key).attempt == second
    kinds = [event.kind for event in world.events()]
    assert kinds == ["started", "failed", "started", "refused", "succeeded"]
    refused = next(event for event in world.events() if event.kind == "refused")
    assert refused.payload == {"attempt": first, "answer": answer, "current": second}
    assert f"attempt {first} answered ({answer}), but it was given up or replaced" in caplog.text


def running(key: str) -> TrialState:
    return TrialState.RUNNING


def test_answers_nobody_waits_for_are_refused_once(tmp_path: Path) -> None:
    """Unknown trials and trials between two attempts; an interrupted answer comes again."""
    trial = make_trial()
    store = Store(str(tmp_path / "store"))
    answers = [
        Succeeded(trial_key=trial.key, attempt=name, result=finish(store.uri, trial, name))
        for name in ("a1", "a2")
    ]
    with Journal.open(tmp_path / "journal", SweepInfo("toy", "h", ""), now=0.0) as journal:
        returned = Returned(journal, lambda: 1.0)
        returned.put(answers[:1])
        assert list(returned.awaited(running)) == []  # none was started
        returned.expect(trial.key, "a2")
        returned.put(answers[1:])
        assert list(returned.awaited(lambda key: TrialState.PENDING)) == []  # it was given up
        assert [event.payload["attempt"] for event in journal.events()] == ["a1", "a2"]
        returned.put(answers[1:])
        for _ in returned.awaited(running):
            break  # as Ctrl-C does
        assert list(returned.awaited(running)) == answers[1:]
        assert list(returned.awaited(running)) == []
        assert len(journal.events()) == 2


def tree(store: Store) -> dict[str, bytes]:
    root = Path(store.uri)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_zombies_commit_changes_nothing(tmp_path: Path) -> None:
    """Once another attempt is committed not one byte of the store changes, nor what is read."""
    trial, store = make_trial(prunes=(100,)), Store(str(tmp_path / "store"))
    zombie = finish(store.uri, trial, "a0001-zombie", score=0.1)
    store.commit(finish(store.uri, trial, "a0002-fresh", score=0.9), trial.spec)
    before, record = tree(store), store.record(trial.key)
    for _ in range(2):
        assert not store.commit(zombie, trial.spec)
    assert tree(store) == before
    assert store.record(trial.key) == record


class Robbed(SimulatedExecutor):
    """Another driver takes the sweep over while the first trial runs."""

    lease: Lease

    def wait(self, timeout_s: float) -> list[Outcome]:
        storage = Storage(self.lease._storage.uri)
        other = LeaseRecord.new(term_s=60).model_copy(update={"host": "node7"})
        storage.replace(self.lease._path, other.encode())
        self.lease.renew()
        return super().wait(timeout_s)


def drive(tmp_path: Path, executor: SimulatedExecutor, clock: FakeClock, lease: Lease) -> None:
    store = Store(str(tmp_path / "store"))
    with Journal.open(tmp_path / "journal.db", SWEEP, now=0.0) as journal:
        run_sweep(
            make_lineage(num_rounds=3),
            store,
            journal,
            executor,
            LadderPolicy(),
            DEFAULT_BUDGETS,
            World(tmp_path).diary,
            clock,
            partial(make_request, store.uri),
            lease.check,
            may_start=lambda: lease.is_current,
        )


def test_a_driver_that_lost_its_lease_starts_nothing_more_and_ends(tmp_path: Path) -> None:
    """The error says who has the sweep; the executor is closed and the journal not torn."""
    clock = FakeClock()
    uri = str(tmp_path / "store")
    timing = Timing(heartbeat_s=60, term_s=60, settle_s=0.1)
    with Lease.acquire(uri, "toy", "h", timing=timing) as lease:
        executor = Robbed(clock, uri, make_lineage(num_rounds=3))
        executor.lease = lease
        with pytest.raises(UserError, match=r"has lost the sweep to process .* on node7"):
            drive(tmp_path, executor, clock, lease)
    assert len(executor.submitted) == 1
    assert executor.num_closes == 1
    with Journal.read_only(tmp_path / "journal.db") as reader:
        assert next(event.kind for event in reader.events()) == "started"


class Doubted(SimulatedExecutor):
    """The lease is not renewed in time while the first trial runs, then it is again."""

    lease: Lease
    num_waits = 0

    def wait(self, timeout_s: float) -> list[Outcome]:
        self.num_waits += 1
        if self.num_waits == 1:
            self.lease._renewed_at -= 1000
        if self.num_waits == 20:
            assert len(self.submitted) == 1
            self.lease.renew()
        return super().wait(timeout_s)


def test_while_the_lease_is_in_doubt_nothing_is_started(tmp_path: Path) -> None:
    """What runs goes on and is kept; the rest starts once the lease is renewed."""
    clock = FakeClock()
    uri = str(tmp_path / "store")
    timing = Timing(heartbeat_s=60, term_s=60, settle_s=0.1)
    with Lease.acquire(uri, "toy", "h", timing=timing) as lease:
        executor = Doubted(clock, uri, make_lineage(num_rounds=3))
        executor.lease = lease
        drive(tmp_path, executor, clock, lease)
    assert len(executor.submitted) == 3
    assert len(list(Store(uri).records())) == 3
