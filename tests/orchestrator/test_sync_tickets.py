"""`tickets sync` puts right what MLflow's registry has of a sweep's tickets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.judging import judge_sweep
from orchestrator.registering import candidates_of
from orchestrator.registry import Candidate
from orchestrator.registry_diff import TicketFault, mend_files, ticket_faults
from orchestrator.registry_versions import registered_model, search_versions
from orchestrator.sweep_context import SweepContext
from orchestrator.syncing import check_mirror, sync_mirror
from orchestrator.tracking import MlflowTracker
from search_spaces.errors import UserError
from search_spaces.run_specs import TrackingSpec
from tests.orchestrator.ticket_worlds import NAME, World, aliases, losing, make_world

pytest.importorskip("cognition", reason="BERT-tiny's package is not installed")


class Registry:
    """A world whose 50% and 70% tickets are registered, and what one hand does to them."""

    def __init__(self, world: World) -> None:
        self.world, self.client = world, MlflowClient(world.uri)
        self.tracker = MlflowTracker(world.uri, "tickets", world.spec.name, "hash")

    def candidates(self) -> list[Candidate]:
        one = self.world
        judged = judge_sweep(one.spec, one.trials, one.results)
        return candidates_of(one.spec, one.trials, one.results, judged, one.store)

    def faults(self, reads_files: bool = True) -> list[TicketFault]:
        told = self.tracker.experiment_id, self.world.spec.name
        return list(ticket_faults(self.client, *told, self.candidates(), reads_files))

    def mended(self) -> tuple[str, str, str]:
        """Mend the one thing that is wrong; return name, problem and remedy."""
        (fault,) = self.faults()
        mend_files(self.client, self.world.uri, fault)
        self.world.register()
        assert self.faults() == [], "a second time there is nothing to do"
        return fault.name, fault.problem, fault.remedy

    def folder(self, number: str = "2") -> Path:
        run_id = self.client.get_model_version(NAME, number).run_id
        uri: str = self.client.get_run(run_id).info.artifact_uri
        return Path(uri.removeprefix("file://")) / "ticket"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("registry"))
    world.register()
    return world


@pytest.fixture
def registry(made: World, tmp_path: Path) -> Registry:
    """The database and the files of each test are its own."""
    shutil.copy(made.uri.removeprefix("sqlite:///"), tmp_path / "own.db")
    return Registry(replace(made, uri=f"sqlite:///{tmp_path}/own.db"))


def test_a_whole_registry_has_no_faults(registry: Registry) -> None:
    assert registry.faults() == registry.faults(reads_files=False) == []


def test_tags_and_aliases_are_set_back(registry: Registry) -> None:
    before = aliases(registry.world.uri, "toy")
    registry.client.set_model_version_tag(NAME, "2", "sparsity", "0.99")
    name, problem, remedy = registry.mended()
    assert (name, remedy) == (f"{NAME} version 2", "put right")
    assert problem.startswith("tag sparsity is '0.99', not '0.69")
    registry.client.delete_model_version_tag(NAME, "1", "metric")
    assert registry.mended()[1] == "tag metric is missing"
    registry.client.set_registered_model_alias(NAME, "sparsest-matching", "1")
    registry.client.delete_registered_model_alias(NAME, "s50")
    registry.client.set_registered_model_alias(NAME, "s10", "1")
    name, problem, _ = registry.mended()
    assert name == NAME
    assert problem == (
        "alias s10 stands for no ticket any more; alias s50 is not at version 1; "
        "alias sparsest-matching is not at version 2"
    )
    assert aliases(registry.world.uri, "toy") == before


def test_a_deleted_run_is_restored(registry: Registry) -> None:
    run_id = registry.client.get_model_version(NAME, "1").run_id
    registry.client.delete_run(run_id)
    assert registry.mended()[1:] == ("its run was deleted", "put right")
    assert registry.client.get_run(run_id).info.lifecycle_stage == "active"


def test_a_run_that_is_gone_is_registered_anew(registry: Registry) -> None:
    """A version cannot be given another run; the new one takes its aliases."""
    version = registry.client.get_model_version(NAME, "2")
    client = registry.client._tracking_client.store
    registry.client.delete_run(version.run_id)
    client._hard_delete_run(version.run_id)
    assert registry.mended()[1:] == ("its run is gone", "registered anew, as another version")
    assert aliases(registry.world.uri, "toy")["sparsest-matching"] == (3, "70%")


def test_a_version_that_is_gone_is_registered(registry: Registry) -> None:
    registry.client.delete_model_version(NAME, "2")
    name, problem, remedy = registry.mended()
    assert (name, remedy) == (NAME, "registered")
    assert problem == "the ticket at 70.0% by imp is not registered"
    registry.client.delete_registered_model(NAME)
    assert [one.remedy for one in registry.faults()] == ["registered", "registered"]
    registry.world.register()
    assert registry.faults() == []
    assert registered_model(registry.client, NAME) is not None


@pytest.mark.parametrize(
    ("file", "spoil", "problem"),
    [
        ("mask-seed1.arrow", Path.unlink, "file ticket/mask-seed1.arrow is missing"),
        pytest.param(
            "README.md",
            Path.unlink,
            "file ticket/README.md is missing",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "ticket.json",
            lambda path: path.write_text("{}"),
            "file ticket/ticket.json is damaged",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "mask-seed2.arrow",
            lambda path: path.write_bytes(path.read_bytes()[:-40]),
            "file ticket/mask-seed2.arrow is damaged",
            marks=pytest.mark.slow,
        ),
        (
            "mask-seed2.arrow",
            lambda path: path.write_bytes((path.parent / "mask-seed3.arrow").read_bytes()),
            "file ticket/mask-seed2.arrow is the mask ",
        ),
    ],
)
def test_files_are_written_again(
    registry: Registry, file: str, spoil: Callable[[Path], object], problem: str
) -> None:
    path = registry.folder() / file
    whole = path.read_bytes()
    spoil(path)
    assert registry.mended()[1].startswith(problem)
    assert path.read_bytes() == whole or file == "README.md"


@pytest.mark.slow
def test_without_a_mask_in_the_store_it_is_said(registry: Registry, tmp_path: Path) -> None:
    """What cannot be mended is left and named; a ticket that never could be registered is not."""
    path = registry.folder() / "mask-seed1.arrow"
    whole = path.read_bytes()
    kept = registry.world.store.uri
    shutil.move(kept, tmp_path / "kept")
    try:
        path.unlink()
        (fault,) = registry.faults()
        assert fault.why_left == "the store keeps no mask of it any more"
        mend_files(registry.client, registry.world.uri, fault)
        assert not path.exists()
        registry.client.delete_model_version(NAME, "1")
        assert [one.problem for one in registry.faults()] == [fault.problem]
    finally:
        path.write_bytes(whole)
        shutil.move(tmp_path / "kept", kept)


@pytest.mark.slow
def test_a_damaged_mask_is_not_registered_and_that_is_said(registry: Registry) -> None:
    registry.client.delete_model_version(NAME, "1")
    root = Path(registry.world.store.uri)
    first = sorted(root.glob("results/*/attempts/*/mask-*-196608.arrow"))[0]
    whole = first.read_bytes()
    first.write_bytes(whole[:-40])
    try:
        (fault,) = registry.faults()
        assert "is damaged" in fault.why_left
        with pytest.raises(UserError, match="is damaged"):
            registry.world.register()
    finally:
        first.write_bytes(whole)


def test_the_command_mends_what_it_can_and_names_the_rest(registry: Registry) -> None:
    """A ticket whose mask is damaged holds up no other."""
    registry.client.delete_model_version(NAME, "1")
    registry.client.delete_registered_model_alias(NAME, "s70")
    one = registry.world
    tracking = TrackingSpec(uri=one.uri, experiment="tickets")
    spec = one.spec.model_copy(update={"tracking": tracking})
    context = SweepContext(spec, {}, {}, tuple(one.trials))
    first = sorted(Path(one.store.uri).glob("results/*/attempts/*/mask-*-196608.arrow"))[0]
    whole = first.read_bytes()
    first.write_bytes(whole[:-40])
    try:
        reports = [check_mirror(context, one.store), sync_mirror(context, one.store)]
    finally:
        first.write_bytes(whole)
    for report in reports:
        (entry,) = [entry for entry in report.entries if entry.is_left and entry.name == NAME]
        assert entry.remedy.startswith("not mended: ") and "is damaged" in entry.remedy
    assert aliases(one.uri, "toy") == {"s70": (2, "70%"), "sparsest-matching": (2, "70%")}
    entries = sync_mirror(context, one.store).entries
    assert not any(entry.is_left for entry in entries)
    (entry,) = [entry for entry in entries if entry.name == NAME]
    assert entry.problem == "the ticket at 50.0% by imp is not registered"
    assert sync_mirror(context, one.store).entries == ()


@pytest.mark.slow
def test_a_loser_is_let_go(registry: Registry) -> None:
    registry.world = losing(registry.world, 0.7)
    let_go, best = registry.faults()
    assert (let_go.name, let_go.remedy) == (f"{NAME} version 2", "let go")
    assert let_go.problem == "is held by the sweep, and is none of its winners"
    assert best.problem == "tag best is 'false', not 'true'"
    registry.world.register()
    assert registry.faults() == []
    assert aliases(registry.world.uri, "toy")["sparsest-matching"] == (1, "50%")


def test_a_ticket_of_two_sweeps_has_the_tags_of_one(registry: Registry) -> None:
    """Else their repairs would take turns for ever."""
    spec = registry.world.spec.model_copy(update={"name": "other"})
    replace(registry.world, spec=spec).register()
    assert {one.tags["sweep"] for one in search_versions(registry.client, f"name = '{NAME}'")} == {
        "other"
    }
    assert registry.faults() == []
    held = f"held.{registry.tracker.experiment_id}.small"
    registry.client.set_model_version_tag(NAME, "1", held, "false")
    assert registry.mended()[1] == f"tag {held} is 'false', not 'true'"
