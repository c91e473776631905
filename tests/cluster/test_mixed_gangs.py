"""Gangs of several sizes in a real Ray: the larger one gets its place among small ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.ray_executor import RayExecutor
from cluster.session import Session
from search_spaces.contracts import Compute
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

pytestmark = [pytest.mark.ray, pytest.mark.slow]
THREE_RANKS = Compute(num_ranks=3)


@pytest.fixture
def executor(ray_session: Session) -> Iterator[RayExecutor]:
    """One that has gangs of one and of three ranks, on four CPUs."""
    made = RayExecutor(
        ray_session,
        ONE_RANK,
        trial_function=scripted_trial,
        connect_function=export_rank,
        others=[THREE_RANKS],
    )
    yield made
    made.close()


def submit(executor: RayExecutor, gate: Path, seed: int, compute: Compute) -> None:
    """Start what waits for a file, and wait until all of its ranks run."""
    executor.submit(make_request(f"wait_for:{gate}", seed, compute))
    num_pids = compute.num_ranks
    eventually(
        lambda: (
            not executor.wait(0.05) and len(list(gate.parent.glob(f"{gate.name}.pid*"))) == num_pids
        ),
        timeout_s=60,
    )


def test_a_large_gang_takes_the_room_of_idle_small_ones(
    executor: RayExecutor, tmp_path: Path
) -> None:
    """Running gangs keep their place; those that run nothing go, first small ones, then large."""
    gates = [tmp_path / name for name in "abcde"]
    assert executor.num_slots == 4
    submit(executor, gates[0], 0, ONE_RANK)
    submit(executor, gates[1], 1, ONE_RANK)
    assert not executor.has_room(THREE_RANKS) and executor.has_room(ONE_RANK)
    gates[0].touch()
    wait_all(executor, 1)
    assert executor.has_room(THREE_RANKS)
    submit(executor, gates[2], 2, THREE_RANKS)  # beside the idle gang there is no room
    assert not executor.has_room(ONE_RANK)
    gates[1].touch()
    gates[2].touch()
    wait_all(executor, 2)
    submit(executor, gates[3], 3, ONE_RANK)
    submit(executor, gates[4], 4, ONE_RANK)  # the large gang, which runs nothing, makes room
    for gate in gates:
        gate.touch()
    assert len(wait_all(executor, 2)) == 2


def test_idle_gangs_make_room_where_only_ray_knows_that_they_must(executor: RayExecutor) -> None:
    """By count one idle gang need not go, but a CPU is taken that the count does not know of."""
    answer_of(run(executor, "return:warm", ONE_RANK))
    others = placement_group([{"CPU": 1}])
    try:
        ray.get(others.ready(), timeout=60)
        assert answer_of(run(executor, "return:large", THREE_RANKS)) == "large"
    finally:
        remove_placement_group(others)


def test_nothing_of_another_size_starts_where_a_gang_waits_in_vain(executor: RayExecutor) -> None:
    """The cluster seems to have room, but others hold it: small trials wait for the large one."""
    answer_of(run(executor, "return:warm", ONE_RANK))
    others = placement_group([{"CPU": 2}])
    try:
        ray.get(others.ready(), timeout=60)
        executor.submit(make_request("return:large", 1, THREE_RANKS))
        assert executor.has_room(ONE_RANK)
        eventually(lambda: not executor.wait(0.1) and not executor.has_room(ONE_RANK))
        assert not executor.has_room(ONE_RANK)
    finally:
        remove_placement_group(others)
    assert answer_of(wait_all(executor, 1)[0]) == "large"
    assert executor.has_room(ONE_RANK)


def test_a_shape_that_nobody_planned_for_is_refused(executor: RayExecutor) -> None:
    with pytest.raises(ValueError, match="num_ranks=2"):
        executor.submit(make_request("return:x", compute=TWO_RANKS))
    assert "4 gang(s) of 1 rank(s) x 1 CPU(s) or 3 rank(s) x 1 CPU(s)" in executor.description
