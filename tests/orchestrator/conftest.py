"""Fixtures that several modules share: data, databases, worlds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Imported in the fixtures: who runs one light test need not wait for torch.
if TYPE_CHECKING:
    from tests.orchestrator.bad_sweeps import Tickets
    from tests.orchestrator.mirrored_sweep import Place
    from tests.orchestrator.ticket_worlds import World as TicketWorld
    from tests.orchestrator.world import World


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a task."""
    from tests.orchestrator.sweeps import write_data

    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cached lies in the test's folder."""
    monkeypatch.setenv("TICKETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tickets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Tickets:
    """The command, in the test's folder."""
    from tests.orchestrator.bad_sweeps import Tickets

    monkeypatch.chdir(tmp_path)
    return Tickets(tmp_path, capsys)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A folder in which sweeps are driven; many modules have a world of another kind."""
    from tests.orchestrator.world import World

    return World(tmp_path)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without runs: to make one takes seconds, to copy it does not."""
    from orchestrator.tracking_client import open_client

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    open_client(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def uri(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the tests of a module that leave it whole."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    shutil.copyfile(empty_database, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> TicketWorld:
    """A registered sweep, which nobody changes: 50% is version 1, 70% version 2."""
    from tests.orchestrator.ticket_worlds import make_world

    world = make_world(tmp_path_factory.mktemp("tickets"))
    world.register()
    return world


@pytest.fixture
def folder(registered: TicketWorld, tmp_path: Path) -> Path:
    """A copy of the folder of its 70% ticket."""
    from mlflow import MlflowClient

    from tests.orchestrator.ticket_worlds import NAME

    client = MlflowClient(registered.uri)
    run_id = client.get_model_version_by_alias(NAME, "s70").run_id
    return Path(client.download_artifacts(run_id, "ticket", str(tmp_path)))


@pytest.fixture(scope="session")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Data, model, store and an MLflow that is up to date."""
    from tests.orchestrator.committed_sweeps import commit
    from tests.orchestrator.mirrored_sweep import Place
    from tests.orchestrator.sweeps import write_data

    root = tmp_path_factory.mktemp("sync")
    write_data(root)
    place = Place(root)
    commit(place.path, 0.0)
    place.sync()
    return place


@pytest.fixture
def place(mirrored: Place) -> Iterator[Place]:
    """The same for each test: what one did to MLflow's database is taken back."""
    kept = mirrored.root / "kept.db"
    shutil.copy(mirrored.root / "s.db", kept)
    try:
        yield mirrored
    finally:
        shutil.copy(kept, mirrored.root / "s.db")
