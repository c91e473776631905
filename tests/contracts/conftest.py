"""A store on each kind of file system that it may lie on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store import Store
from search_spaces.contracts import below
from tests.orchestrator.object_store import running_s3

SHM = Path("/dev/shm")  # Linux has this file system in memory beside the disk's


@pytest.fixture(scope="package")
def s3() -> Iterator[str]:
    """The URI of a bucket, on one server for all modules: it takes seconds to start."""
    with running_s3() as uri:
        yield uri


@pytest.fixture(params=["folder", "shm", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place that nobody has used."""
    if request.param == "s3":
        return below(request.getfixturevalue("s3"), tmp_path.name)
    if request.param == "folder":
        return str(tmp_path / "store")
    if not SHM.is_dir():
        pytest.skip("this machine has no /dev/shm")
    return str(request.getfixturevalue("shm_folder"))


@pytest.fixture
def shm_folder() -> Iterator[Path]:
    """A place in memory."""
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        yield Path(folder) / "store"


@pytest.fixture
def store(uri: str) -> Store:
    """An empty store there."""
    return Store(uri)
