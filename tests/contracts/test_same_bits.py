"""The same seed leaves the same mask bits wherever its lineage runs (method rule 22).

Fixed here: one rank, one thread, whole batches; dropout is on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.local_executor import LocalExecutor
from cluster.ray_executor import RayExecutor
from cluster.session import Session
from search_spaces.contracts import Compute, Executor, TrialRequest, TrialResult
from search_spaces.models import ModelFacts
from search_spaces.resolve import TaskFacts
from search_spaces.trial import Outputs, PruneOutput, TrainedMask
from tests.workers.requests import facts, request
from tests.workers.running import artifact_ref, results_of

K = 1000
ROUNDS = [PruneOutput(pruner="global-magnitude", num_removed=k) for k in (K, 2 * K)]
SEEDS = (1, 2)
Bits = dict[int, list[str]]  # sha256 of each round's mask file, by seed


class Lineages:
    """Dense, then one round, for each seed; every way of running writes to its own attempts."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._toy: tuple[ModelFacts, TaskFacts] = facts(root)
        self._num_ways = 0

    def request(self, seed: int, **of: Any) -> TrialRequest:
        """Return a trial with dropout."""
        attempt = f"a{self._num_ways:03d}-0000abcd"
        dropout = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
        return request(self._root, *self._toy, seed=seed, attempt=attempt, **(dropout | of))

    def bits(self, executor: Executor, *seeds: int) -> Bits:
        """Run the seeds' lineages side by side."""
        self._num_ways += 1
        wanted = {seed: self.request(seed, outputs=Outputs(prunes=ROUNDS[:1])) for seed in seeds}
        dense = self._run(executor, wanted)
        name = ROUNDS[0].artifact
        children = {
            seed: self.request(
                seed,
                mask=TrainedMask(parent=parent.spec.key, num_removed=K),
                mask_file=artifact_ref(parent, dense[seed], name),
                outputs=Outputs(prunes=ROUNDS[1:]),
            )
            for seed, parent in wanted.items()
        }
        pruned = self._run(executor, children)
        return {
            seed: [
                dense[seed].artifacts[name].sha256,
                pruned[seed].artifacts[ROUNDS[1].artifact].sha256,
            ]
            for seed in seeds
        }

    def _run(self, executor: Executor, wanted: dict[int, TrialRequest]) -> dict[int, TrialResult]:
        results = results_of(executor, *wanted.values())
        return dict(zip(wanted, results, strict=True))


@pytest.fixture(scope="module")
def lineages(tmp_path_factory: pytest.TempPathFactory) -> Lineages:
    return Lineages(tmp_path_factory.mktemp("bits"))


@pytest.fixture(scope="module")
def here(lineages: Lineages) -> Bits:
    """The lineages in this process, one after the other."""
    executor = LocalExecutor(Compute())
    try:
        return {seed: lineages.bits(executor, seed)[seed] for seed in SEEDS}
    finally:
        executor.close()


def test_repeated_here(lineages: Lineages, here: Bits) -> None:
    """Another executor in the same process leaves the same bits; the seeds' bits differ."""
    executor = LocalExecutor(Compute())
    try:
        assert lineages.bits(executor, 1) == {1: here[1]}
    finally:
        executor.close()
    assert not set(here[1]) & set(here[2])


@pytest.mark.ray
def test_on_one_gang_and_on_two(lineages: Lineages, here: Bits, ray_session: Session) -> None:
    """One gang alone, and two gangs at once of which one is new, leave the bits of this process."""
    executor = RayExecutor(ray_session, Compute(), num_gangs=2)
    try:
        assert lineages.bits(executor, 1) == {1: here[1]}  # a second gang starts when it is needed
        assert lineages.bits(executor, *SEEDS) == here
    finally:
        executor.close()
