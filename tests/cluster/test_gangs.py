"""Gangs in a real Ray: their environment, their deaths and their replacement."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.state import list_actors, list_tasks

from cluster.attempts import ConnectFunction
from cluster.gang import Gang, GangPlan
from cluster.ray_executor import RayExecutor
from cluster.session import Session
from cluster.slot import GangLife
from search_spaces.contracts import Compute, Failed, FailureClass, Succeeded
from search_spaces.run_specs import HangLimits
from tests.cluster.scripted import (
    ONE_RANK,
    TWO_RANKS,
    answer_of,
    eventually,
    export_rank,
    make_request,
    never_connect,
    run,
    scripted_trial,
    wait_all,
)

pytestmark = pytest.mark.ray
NewExecutor = Callable[..., RayExecutor]


@pytest.fixture
def new_executor(ray_session: Session) -> Iterator[NewExecutor]:
    """Make executors that are closed after the test."""
    made: list[RayExecutor] = []

    def make(
        compute: Compute = ONE_RANK,
        num_gangs: int = 1,
        life: GangLife | None = None,
        connect: ConnectFunction | None = export_rank,
    ) -> RayExecutor:
        made.append(RayExecutor(ray_session, compute, num_gangs, life, scripted_trial, connect))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def _head() -> str:
    return str(ray.get_runtime_context().gcs_address)  # another Ray may run on this machine


def _living_ranks() -> list[str]:
    return [actor.name for actor in list_actors(address=_head(), filters=[("state", "!=", "DEAD")])]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_ranks_have_their_threads_before_torch(new_executor: NewExecutor, num_threads: int) -> None:
    """torch computes with the rank's CPU share, not with one thread per core or just one."""
    compute = Compute(num_ranks=1, num_threads=num_threads)
    told = answer_of(run(new_executor(compute), "inspect", compute))
    assert told["environment"] == {
        "OMP_NUM_THREADS": str(num_threads),
        "MKL_NUM_THREADS": str(num_threads),
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": "cpu",
    }
    assert told["torch_threads"] == num_threads


def test_two_ranks_really_connect(new_executor: NewExecutor) -> None:
    """Ranks find each other through rank 0's own node: 1 + 2 summed over gloo is 3."""
    executor = new_executor(TWO_RANKS, connect=None)
    assert answer_of(run(executor, "all_reduce", TWO_RANKS)) == {"sum": 3.0, "backend": "gloo"}
    assert answer_of(run(executor, "all_reduce", TWO_RANKS))["sum"] == 3.0


def test_killed_rank_costs_its_own_trial_only(new_executor: NewExecutor, tmp_path: Path) -> None:
    """After a kill -9 one trial fails as infrastructure, the other goes on, a new gang comes."""
    executor = new_executor(num_gangs=2)
    gates = [tmp_path / "first", tmp_path / "second"]
    requests = [make_request(f"wait_for:{gate}", seed) for seed, gate in enumerate(gates)]
    for request in requests:
        executor.submit(request)
    eventually(lambda: not executor.wait(0.05) and len(list(tmp_path.glob("*.pid*"))) == 2)
    pid = int((tmp_path / "first.pid0").read_text())
    os.kill(pid, signal.SIGKILL)
    [failed] = wait_all(executor, 1)
    assert isinstance(failed, Failed)
    assert (failed.trial_key, failed.failure) == (
        requests[0].spec.key,
        FailureClass.INFRASTRUCTURE,
    )
    assert f"(process {pid} on " in failed.message and ".err) died: " in failed.message
    executor.submit(make_request("return:replaced", seed=2))
    assert answer_of(wait_all(executor, 1)[0]) == "replaced"
    gates[1].touch()
    [other] = wait_all(executor, 1)
    assert isinstance(other, Succeeded) and other.trial_key == requests[1].spec.key


def test_one_dead_rank_ends_all_ranks(new_executor: NewExecutor) -> None:
    """The peers of a dead rank would wait for it forever: they are ended within seconds."""
    executor = new_executor(TWO_RANKS)
    start_s = time.monotonic()
    outcome = run(executor, "exit:1", TWO_RANKS)
    assert isinstance(outcome, Failed) and outcome.failure is FailureClass.INFRASTRUCTURE
    assert outcome.message.startswith("Rank 1 of gang")
    assert time.monotonic() - start_s < 20
    eventually(lambda: not _living_ranks())


def test_one_raising_rank_ends_its_waiting_peers(new_executor: NewExecutor) -> None:
    """One rank's exception is the trial's failure even while its peers still wait."""
    executor = new_executor(TWO_RANKS)
    outcome = run(executor, "raise_in:1", TWO_RANKS)
    assert isinstance(outcome, Failed) and outcome.failure is FailureClass.ERROR
    assert "ArithmeticError" in outcome.details and "Log of (process " in outcome.details
    eventually(lambda: not _living_ranks())


def test_names_are_seen_in_ray(new_executor: NewExecutor) -> None:
    """People find ranks by gang and trials by label in Ray's dashboard."""
    run(new_executor(TWO_RANKS), "return:find me", TWO_RANKS)
    names = sorted(_living_ranks())
    assert len(names) == 2
    assert names[0].startswith("tickets-gang") and names[0].endswith("-rank0")
    assert names[1] == names[0].replace("-rank0", "-rank1")
    label = [("name", "=", "return:find me")]
    eventually(
        lambda: len(list_tasks(address=_head(), filters=label)) == 2
    )  # one call to each rank


def test_gang_stays_warm_until_its_trial_count(new_executor: NewExecutor) -> None:
    """The same process runs trial after trial, and a new one follows after the last of them."""
    executor = new_executor(life=GangLife(recycle_after_trials=2))
    pids = [answer_of(run(executor, "hold:0")) for _ in range(3)]
    assert pids[0] == pids[1] != pids[2]


def test_gang_that_leaks_is_replaced(new_executor: NewExecutor) -> None:
    """A gang that holds more than twice the memory of its first trial is not kept."""
    executor = new_executor()
    pids = [answer_of(run(executor, f"hold:{mib}")) for mib in (0, 400, 0)]
    assert pids[0] == pids[1] != pids[2]


def test_idle_gang_is_given_back(new_executor: NewExecutor) -> None:
    """A gang without work frees its resources, and the next trial gets a new one."""
    executor = new_executor(life=GangLife(idle_release_s=0.1))
    run(executor, "return:")
    eventually(lambda: not executor.wait(0.2) and not _living_ranks())
    assert answer_of(run(executor, "return:woken")) == "woken"


def test_attempt_that_hangs_is_ended_with_its_gang(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    """No report within the phase's limit: class hang, with place, stacks and the remedy."""
    executor = new_executor(life=GangLife(hang_limits=HangLimits(train=1)))
    executor.submit(make_request("stall:"))
    [outcome] = wait_all(executor, 1)
    assert isinstance(outcome, Failed) and outcome.failure is FailureClass.HANG
    said = outcome.message
    assert re.search(
        r"Gang \d+ has made no progress for \d+ s in phase train at step 3 of 10", said
    )
    assert "(limit: 1 s, retries.hang_after_s.train) and was ended" in said
    assert re.search(r"rank 0 \(process \d+ on \S+, log \S+\.err\)", said)
    assert "asleep_in_the_work" in outcome.details
    eventually(lambda: not _living_ranks())
    other = ONE_RANK.with_micro_batch(2)  # another gang, and a micro-batch of the request's own
    assert answer_of(run(executor, "return:on", other)) == "on"


def _phases(executor: RayExecutor) -> list[str]:
    return sorted(point.phase for point in executor.progress())


def _group_states() -> list[str]:
    return [group["state"] for group in placement_group_table().values()]


class HeldCpu:
    """One of the four CPUs, held by somebody who is no sweep and so gives way to none."""

    def __init__(self) -> None:
        self._group = placement_group([{"CPU": 1}])
        ray.get(self._group.ready(), timeout=60)

    def close(self) -> None:
        """Set it free."""
        remove_placement_group(self._group)


@pytest.fixture
def held_cpu(ray_session: Session) -> Iterator[HeldCpu]:
    """Hold one CPU until it is closed, or the test's end."""
    held = HeldCpu()
    yield held
    held.close()


WIDE = Compute(num_ranks=1, num_threads=2)
WIDE_PAIR = Compute(num_ranks=2, num_threads=2)


def test_waiting_for_resources_is_no_failure(new_executor: NewExecutor, held_cpu: HeldCpu) -> None:
    """A gang waits for its resources without limit; its time to start counts from having them."""
    life = GangLife(start_timeout_s=1.0)
    executor = new_executor(WIDE_PAIR, life=life, connect=never_connect)
    start_s = time.monotonic()
    executor.submit(make_request("return:", compute=WIDE_PAIR))
    assert time.monotonic() - start_s < 0.5  # submitting waits for nothing
    assert executor.wait(timeout_s=1.5) == []
    assert _phases(executor) == ["waiting for resources"]
    held_cpu.close()
    freed_s = time.monotonic()
    [outcome] = wait_all(executor, 1)
    assert time.monotonic() - freed_s > 1.0
    assert isinstance(outcome, Failed) and outcome.failure is FailureClass.INFRASTRUCTURE
    assert "did not start within 1 s of getting its resources" in outcome.message


def test_gang_is_reserved_whole_or_not_at_all(new_executor: NewExecutor, held_cpu: HeldCpu) -> None:
    """A gang that waits holds nothing, though one of its ranks has room; closing undoes the wait.

    Two sweeps that each held half a gang would wait for each other forever.
    """
    executor = new_executor(WIDE_PAIR)
    executor.submit(make_request("return:", compute=WIDE_PAIR))
    eventually(lambda: "PENDING" in _group_states())
    assert executor.wait(timeout_s=0.5) == []
    eventually(lambda: ray.available_resources().get("CPU") == 3.0)  # what the node tells lags
    executor.close()
    eventually(lambda: "PENDING" not in _group_states())


def test_attempt_does_not_stay_with_a_gang_that_finds_no_room(
    new_executor: NewExecutor, held_cpu: HeldCpu, tmp_path: Path
) -> None:
    """What waits for a second gang runs on the first as soon as that is free, and so on."""
    executor = new_executor(WIDE, num_gangs=2)
    gate = tmp_path / "gate"
    executor.submit(make_request(f"wait_for:{gate}", 0, WIDE))
    executor.submit(make_request("hold:0", 1, WIDE))
    eventually(
        lambda: not executor.wait(0.05) and _phases(executor) == ["train", "waiting for resources"]
    )
    with pytest.raises(RuntimeError, match="taken"):
        executor.submit(make_request("hold:0", 2, WIDE))
    gate.touch()
    first, second = wait_all(executor, 2)
    assert (first.trial_key, second.trial_key) == tuple(
        make_request("", seed).spec.key for seed in range(2)
    )
    executor.submit(make_request("hold:0", 3, WIDE))  # to the gang that is ready
    [third] = wait_all(executor, 1)
    assert answer_of(first)["pid"] == answer_of(second) == answer_of(third)


def test_memory_growth_counts_from_the_first_trial(ray_session: Session) -> None:
    """What the first trial loads is no leak, even if the gang was ready long before it."""
    gang = Gang(
        ray_session.new_gang_number(), GangPlan(ONE_RANK, "PACK", scripted_trial, export_rank)
    )
    try:
        eventually(lambda: gang.collect() or gang.is_connected)
        gang.collect()
        gang.start(make_request("hold:200"))
        eventually(lambda: gang.collect() or gang.is_idle)
        assert gang.memory_growth == 1.0
    finally:
        gang.kill()
