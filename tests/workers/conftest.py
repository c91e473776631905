"""Fixtures that several modules share: ranks, an executor, a toy model and task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local_executor import LocalExecutor
from search_spaces.contracts import Compute
from search_spaces.models import ModelFacts
from search_spaces.resolve import TaskFacts
from tests.workers.requests import facts
from tests.workers.running import ProcessGang


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the module's own."""
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def toy(root: Path) -> tuple[ModelFacts, TaskFacts]:
    """A tiny BERT and a two-class task below it."""
    return facts(root)


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    """An executor of one warm process."""
    executor = LocalExecutor(Compute())
    yield executor
    executor.close()


@pytest.fixture(scope="package")
def gang() -> Iterator[ProcessGang]:
    """Two warm ranks."""
    with ProcessGang(2) as gang:
        yield gang
