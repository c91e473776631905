"""Where a sweep runs is looked at before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.session import Session, _answer, _exists
from orchestrator.running import refuse_unshared
from search_spaces.errors import UserError


@pytest.mark.ray
def test_node_that_does_not_see_a_store(ray_session: Session, tmp_path: Path) -> None:
    """A shared folder passes; a path that only this process can follow is refused."""
    refuse_unshared(ray_session, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []
    opened = os.open(tmp_path, os.O_DIRECTORY)
    try:
        own = Path(f"/proc/self/fd/{opened}/store")
        with pytest.raises(UserError, match=r"is not seen by the node\(s\) \d.*s3://"):
            refuse_unshared(ray_session, own)
    finally:
        os.close(opened)


@pytest.mark.ray
def test_a_node_that_leaves_while_it_is_asked_is_in_nobodys_way(ray_session: Session) -> None:
    """No trial will run there; what is wrong with it is not told as a missing installation."""
    nowhere = NodeAffinitySchedulingStrategy("e" * 56, soft=False)
    answer = ray.remote(num_cpus=0, max_retries=0)(_exists).options(scheduling_strategy=nowhere)
    asked = answer.remote("/")
    ray.wait([asked], timeout=60)
    assert _answer("10.0.0.1", asked)
