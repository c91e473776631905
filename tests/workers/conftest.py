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
from tests.workers.token_tasks import KINDS, Toys, token_facts


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the module's own."""
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def toy(root: Path) -> tuple[ModelFacts, TaskFacts]:
    """A tiny BERT and a two-class task below it."""
    return facts(root)


@pytest.fixture(scope="module")
def toys(root: Path) -> Toys:
    """A tiny BERT with a word head, and a task of each kind that is made of tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TICKETS_CACHE", str(root / "user-cache"))
        return {kind: token_facts(root / kind, write(root / kind)) for kind, write in KINDS.items()}


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
