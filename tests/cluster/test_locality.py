"""A child runs where its parent ran, when that gang is free: what it needs is warm there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.ray_executor import RayExecutor
from cluster.session import Session
from search_spaces.contracts import TrialRequest
from search_spaces.trial import Trial
from tests.cluster.scripted import (
    answer_of,
    eventually,
    export_rank,
    make_request,
    scripted_trial,
    wait_all,
)
from tests.orchestrator.factories import make_lineage, make_trial

pytestmark = pytest.mark.ray
NUM_ROUNDS = 6


def _request(trial: Trial, label: str = "hold:0") -> TrialRequest:
    return make_request(label).model_copy(
        update={"spec": trial.spec, "attempt": f"attempt {trial.key}"}
    )


def _num_training(executor: RayExecutor) -> int:
    return [point.phase for point in executor.progress()].count("train")


def test_children_follow_their_parents(ray_session: Session, tmp_path: Path) -> None:
    """Two lineages on two gangs: each round runs in the process of the one before.

    Rounds of both are submitted together, in changing order, when both gangs are free. A slot
    chosen by its number would send half of them to the other gang. Where the parent's gang is
    busy, a child runs on the other at once.
    """
    executor = RayExecutor(
        ray_session,
        make_request("").compute,
        2,
        trial_function=scripted_trial,
        connect_function=export_rank,
    )
    lineages = [make_lineage(seed, NUM_ROUNDS) for seed in (1, 2)]
    try:
        gate = tmp_path / "warm"
        for seed in (5, 6):
            executor.submit(_request(make_trial(seed), f"wait_for:{gate}"))
        eventually(lambda: not executor.wait(0.05) and _num_training(executor) == 2)
        gate.touch()
        wait_all(executor, 2)
        pids: list[dict[int, int]] = []
        for index in range(NUM_ROUNDS):
            turn = lineages if index % 2 else lineages[::-1]
            for lineage in turn:
                executor.submit(_request(lineage[index]))
            ended = {one.trial_key: answer_of(one) for one in wait_all(executor, 2)}
            pids.append({n: ended[lineage[index].key] for n, lineage in enumerate(lineages)})
        moves = [pids[i][n] != pids[i + 1][n] for i in range(NUM_ROUNDS - 1) for n in (0, 1)]
        assert moves == [False] * 10
        assert len(set(pids[0].values())) == 2
        gate = tmp_path / "gate"
        children = [make_trial(seed, parent=lineages[0][-1].key) for seed in (3, 4)]
        executor.submit(_request(children[0], f"wait_for:{gate}"))
        executor.submit(_request(children[1]))
        [other] = wait_all(executor, 1)
        assert answer_of(other) == pids[-1][1]
        gate.touch()
        assert answer_of(wait_all(executor, 1)[0])["pid"] == pids[-1][0]
    finally:
        executor.close()
