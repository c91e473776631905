"""What every executor promises, checked for each implementation by the same tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.util.state import list_actors

from cluster.local_executor import LocalExecutor
from cluster.ray_executor import RayExecutor
from search_spaces.contracts import Executor, Failed, FailureClass, Progress, Succeeded
from tests.cluster.scripted import (
    ONE_RANK,
    TWO_RANKS,
    answer_of,
    eventually,
    export_rank,
    make_request,
    run,
    scripted_trial,
    wait_all,
)

NewExecutor = Callable[[], Executor]


@pytest.fixture(scope="module", params=[pytest.param("ray", marks=pytest.mark.ray), "local"])
def new_executor(request: pytest.FixtureRequest) -> NewExecutor:
    """How to make an executor of each implementation."""
    if request.param == "local":
        return lambda: LocalExecutor(ONE_RANK, scripted_trial, export_rank)
    session = request.getfixturevalue("ray_session")
    return lambda: RayExecutor(
        session,
        ONE_RANK,
        num_gangs=2,
        trial_function=scripted_trial,
        connect_function=export_rank,
    )


@pytest.fixture(scope="module")
def executor(new_executor: NewExecutor) -> Iterator[Executor]:
    executor = new_executor()
    yield executor
    executor.close()


def _head() -> str:
    return str(ray.get_runtime_context().gcs_address)  # another Ray may run on this machine


def _leftovers() -> list[str]:
    threads = [thread.name for thread in threading.enumerate() if "tickets" in thread.name]
    actors = (
        list_actors(address=_head(), filters=[("state", "!=", "DEAD")])
        if ray.is_initialized()
        else []
    )
    return threads + [str(actor.name) for actor in actors]


class TestExecutorContract:
    def test_result_comes_back_under_its_key_and_attempt(self, executor: Executor) -> None:
        """A trial that returns ends in one Succeeded that carries what it returned."""
        request = make_request("return:hello", seed=5)
        executor.submit(request)
        [outcome] = wait_all(executor, 1)
        assert isinstance(outcome, Succeeded)
        assert (outcome.trial_key, outcome.attempt) == (request.spec.key, request.attempt)
        assert answer_of(outcome) == "hello"
        assert executor.wait(timeout_s=0.2) == []

    @pytest.mark.parametrize(
        ("error", "failure"),
        [
            ("ArithmeticError", FailureClass.ERROR),
            ("MemoryError", FailureClass.OUT_OF_MEMORY),
            ("UserError", FailureClass.USER_ERROR),
        ],
    )
    def test_exception_is_classified(
        self, executor: Executor, error: str, failure: FailureClass
    ) -> None:
        """A trial that raises ends in one Failed of the right class, and the slot lives on."""
        request = make_request(f"raise:{error}")
        executor.submit(request)
        [outcome] = wait_all(executor, 1)
        assert isinstance(outcome, Failed)
        assert (outcome.trial_key, outcome.attempt) == (request.spec.key, request.attempt)
        assert outcome.failure is failure
        assert outcome.message
        assert error in outcome.details and "scripted.py" in outcome.details
        assert answer_of(run(executor, "return:again")) == "again"

    def test_all_slots_run_at_once_and_no_more(self, executor: Executor, tmp_path: Path) -> None:
        """As many attempts as slots are under way together; one more is refused."""
        gates = [tmp_path / f"{slot}.gate" for slot in range(executor.num_slots)]
        for seed, gate in enumerate(gates):
            assert executor.has_room(ONE_RANK)
            executor.submit(make_request(f"wait_for:{gate}", seed=seed))
        assert not executor.has_room(ONE_RANK)
        with pytest.raises(RuntimeError, match="slot\\(s\\) are taken"):
            executor.submit(make_request("return:too many", seed=99))
        eventually(
            lambda: not executor.wait(0.05) and len(list(tmp_path.glob("*.pid*"))) == len(gates)
        )
        for gate in gates:
            gate.touch()
        keys = {outcome.trial_key for outcome in wait_all(executor, len(gates))}
        assert keys == {make_request("", seed=seed).spec.key for seed in range(len(gates))}

    def test_progress_is_seen_while_the_trial_runs(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """What the trial reports is visible before it ends, without waiting for it."""
        gate = tmp_path / "gate"
        request = make_request(f"wait_for:{gate}", seed=3)
        executor.submit(request)
        expected = Progress(
            trial_key=request.spec.key, phase="train", step=3, num_steps=10, loss=0.5
        )
        eventually(lambda: not executor.wait(0.02) and executor.progress() == [expected])
        gate.touch()
        wait_all(executor, 1)
        assert executor.progress() == []

    def test_wait_returns_in_time_with_nothing(self, executor: Executor, tmp_path: Path) -> None:
        """Without an outcome ``wait`` takes its timeout, whether or not something runs."""
        for busy in (False, True):
            if busy:
                executor.submit(make_request(f"wait_for:{tmp_path / 'gate'}"))
                eventually(lambda: not executor.wait(0.02) and list(tmp_path.glob("*.pid*")))
            start_s = time.monotonic()
            assert executor.wait(timeout_s=0.3) == []
            assert 0.2 < time.monotonic() - start_s < 2.0
        (tmp_path / "gate").touch()
        wait_all(executor, 1)

    def test_a_cancelled_attempt_has_no_outcome_and_frees_its_slot(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """Others go on; a trial that runs nowhere is nobody's, and the slot runs the next one."""
        doomed = make_request(f"wait_for:{tmp_path / 'gate'}", seed=1)
        executor.submit(doomed)
        eventually(lambda: not executor.wait(0.02) and list(tmp_path.glob("*.pid*")))
        executor.cancel(make_request("", seed=9).spec.key)
        assert [point.trial_key for point in executor.progress()] == [doomed.spec.key]
        executor.cancel(doomed.spec.key)
        executor.cancel(doomed.spec.key)
        assert executor.progress() == []
        for seed in range(executor.num_slots):
            executor.submit(make_request("return:next", seed=seed + 2))
        outcomes = wait_all(executor, executor.num_slots)
        assert {answer_of(outcome) for outcome in outcomes} == {"next"}
        assert executor.wait(timeout_s=0.2) == []

    def test_other_shape_is_refused(self, executor: Executor) -> None:
        """A request for other gangs than the executor's would change the numerics unseen."""
        with pytest.raises(ValueError, match="num_ranks=2"):
            executor.submit(make_request("return:", compute=TWO_RANKS))

    def test_close_ends_everything(self, new_executor: NewExecutor, tmp_path: Path) -> None:
        """Closing ends a running trial, may be repeated, and leaves no process or thread."""
        before = set(_leftovers())
        executor = new_executor()
        executor.submit(make_request(f"wait_for:{tmp_path / 'gate'}"))
        eventually(lambda: not executor.wait(0.02) and list(tmp_path.glob("*.pid*")))
        executor.close()
        executor.close()
        eventually(lambda: set(_leftovers()) <= before)
        assert executor.progress() == [] and executor.wait(timeout_s=0.01) == []
        with pytest.raises(RuntimeError, match="closed"):
            executor.submit(make_request("return:late"))

    def test_says_where_trials_run(self, executor: Executor) -> None:
        """People can read where trials run."""
        assert "Ray" in executor.description
