"""Where a sweep runs is looked at before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.session import Session
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
