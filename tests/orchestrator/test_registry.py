"""Winners become versions of a real MLflow registry, once; aliases follow the verdicts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.listeners import SweepOutcome
from orchestrator.registry import TicketRegistry
from orchestrator.registry_commands import registered_tickets
from orchestrator.registry_versions import set_aliases
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_listener import TrackingListener
from search_spaces.contracts import TrialState
from search_spaces.errors import UserError
from search_spaces.trial import Role
from tests.orchestrator.ticket_worlds import aliases, losing, make_world

pytest.importorskip("cognition", reason="BERT-tiny's package is not installed")


def statuses(uri: str, task: str) -> dict[int, str]:
    found = [one for one in registered_tickets(uri) if one.name == f"tickets-bert-tiny-{task}"]
    return {one.version: one.status for one in found}


def test_winners_become_versions_with_aliases(uri: str, tmp_path: Path) -> None:
    """50% and 70% match, 85% does not; the sparsest has both its aliases; nothing happens twice."""
    world = make_world(tmp_path, uri, task="plain")
    for _ in range(2):
        world.register("plain")
    assert aliases(uri, "plain") == {
        "s50": (1, "50%"),
        "s70": (2, "70%"),
        "sparsest-matching": (2, "70%"),
    }
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("plain").experiment_id
    assert len(client.search_runs([experiment], "tags.kind = 'ticket'")) == 2
    version = client.get_model_version_by_alias("tickets-bert-tiny-plain", "s70")
    finals = [t for t in world.trials if t.kind == "final" and 0.6 < t.main_role.sparsity < 0.8]
    assert version.tags["trials"] == ",".join(trial.key for trial in finals)
    assert (version.tags["rule"], version.tags["metric"]) == ("noninferior", "accuracy")
    assert float(version.tags["sparsity"]) == pytest.approx(0.7, abs=1e-6)
    assert version.tags[f"held.{experiment}.small"] == "true"
    files = {Path(one.path).name for one in client.list_artifacts(version.run_id, "ticket")}
    masks = {f"mask-seed{seed}.arrow" for seed in (1, 2, 3)}
    assert files == masks | {"ticket.json", "README.md"}
    assert version.source.endswith(f"{version.run_id}/artifacts/ticket")


def test_a_sparser_ticket_takes_the_alias_and_an_equal_one_only_if_better(
    uri: str, tmp_path: Path
) -> None:
    """Of equally sparse tickets the better on select, of equal ones the first."""

    def register(number: int, bonus: float, top: float) -> None:
        def score(role: Role) -> float:
            return 0.8 + role.seed / 100 + bonus * (role.kind == "final") - (role.sparsity > top)

        recipe = {"epochs": 1, "batch_size": 16, "learning_rate": number * 1e-4}
        folder, name = tmp_path / str(number), f"sweep{number}"
        make_world(folder, uri, score, "moving", name=name, recipe=recipe).register("moving")

    register(1, bonus=0.0, top=0.75)
    assert aliases(uri, "moving")["sparsest-matching"] == (2, "70%")
    register(2, bonus=0.0, top=0.75)
    assert aliases(uri, "moving")["sparsest-matching"] == (2, "70%")
    register(3, bonus=0.01, top=0.75)
    assert aliases(uri, "moving")["sparsest-matching"] == (6, "70%")
    register(4, bonus=0.0, top=0.9)
    told = aliases(uri, "moving")
    assert told["sparsest-matching"] == told["s85"] == (9, "85%")
    assert told["s70"] == (6, "70%")


def test_a_withdrawn_ticket_loses_its_aliases_and_may_come_back(uri: str, tmp_path: Path) -> None:
    """The version stays and says what it is; the alias goes to what is left."""
    world = make_world(tmp_path, uri, task="fickle")
    world.register("fickle")
    losing(world, 0.7).register("fickle")
    assert aliases(uri, "fickle") == {"s50": (1, "50%"), "sparsest-matching": (1, "50%")}
    assert statuses(uri, "fickle") == {1: "matching", 2: "withdrawn"}
    world.register("fickle")
    assert aliases(uri, "fickle")["sparsest-matching"] == (2, "70%")
    assert statuses(uri, "fickle") == {1: "matching", 2: "matching"}


def test_a_ticket_stays_while_any_sweep_holds_it(uri: str, tmp_path: Path) -> None:
    """Two sweeps over one store find one ticket; a person's own alias is left alone."""
    first = make_world(tmp_path, uri, task="shared")
    second = replace(first, spec=first.spec.model_copy(update={"name": "other"}))
    first.register("shared")
    second.register("shared")
    MlflowClient(uri).set_registered_model_alias("tickets-bert-tiny-shared", "mine", "2")
    losing(first, 0.7).register("shared")
    assert aliases(uri, "shared")["sparsest-matching"] == (2, "70%")
    losing(second, 0.7).register("shared")
    assert aliases(uri, "shared") == {
        "s50": (1, "50%"),
        "mine": (2, "70%"),
        "sparsest-matching": (1, "50%"),
    }


def test_a_level_beyond_a_failing_one_is_never_the_sparsest(uri: str, tmp_path: Path) -> None:
    """It matches, so it is registered; but the headline is contiguous (method rule 16)."""
    losing(make_world(tmp_path, uri, task="gap"), 0.5).register("gap")
    assert aliases(uri, "gap") == {"s70": (1, "70%")}
    version = MlflowClient(uri).get_model_version("tickets-bert-tiny-gap", "1")
    assert (version.tags["contiguous"], version.tags["best"]) == ("false", "false")


def test_a_ticket_without_masks_is_left_out(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the store no longer keeps cannot be registered; the rest is."""
    world = make_world(tmp_path, uri, task="lost")
    for path in tmp_path.glob("store/results/*/attempts/*/mask-global-magnitude-196608.arrow"):
        path.unlink()
    world.register("lost")
    assert aliases(uri, "lost").keys() == {"s70", "sparsest-matching"}
    assert "the store keeps no mask of it" in caplog.text


def test_a_damaged_mask_is_refused_and_the_rest_registered(uri: str, tmp_path: Path) -> None:
    """The message names the file; a mask of other bits is no better than a damaged one."""
    world = make_world(tmp_path, uri, task="damaged")
    first, *others = sorted(tmp_path.glob("store/results/*/attempts/*/mask-*-196608.arrow"))
    whole = first.read_bytes()
    first.write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"mask-global-magnitude-196608.arrow: .* is damaged"):
        world.register("damaged")
    assert aliases(uri, "damaged").keys() == {"s70", "sparsest-matching"}
    first.write_bytes(others[0].read_bytes())
    with pytest.raises(UserError, match=r"holds the mask \w{10}, but the trials used \w{10}\. Rem"):
        world.register("damaged")
    first.write_bytes(whole)
    world.register("damaged")
    assert aliases(uri, "damaged")["s50"] == (2, "50%")


@pytest.mark.slow
def test_tags_that_a_hand_broke_stop_nobody(uri: str, tmp_path: Path) -> None:
    """Such a ticket has no alias until its sweep puts the tags right; the list shows the others."""
    world, client = make_world(tmp_path, uri, task="broken"), MlflowClient(uri)
    world.register("broken")
    before, name = aliases(uri, "broken"), "tickets-bert-tiny-broken"
    client.set_model_version_tag(name, "1", "sparsity", "much")
    client.set_model_version_tag(name, "2", "select.mean", "good")
    (first, *_) = [one for one in registered_tickets(uri) if one.name == name and one.version == 1]
    assert first.sparsity is None
    set_aliases(client, name)
    assert 1 not in {version for version, _ in aliases(uri, "broken").values()}
    world.register("broken")
    assert aliases(uri, "broken") == before


class Killed(BaseException):
    pass


def test_a_killed_registration_is_taken_up_again(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without a version is found and completed, not made twice."""
    world = make_world(tmp_path, uri, task="killed")

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", die)
        with pytest.raises(Killed):
            world.register("killed")
    world.register("killed")
    assert aliases(uri, "killed")["sparsest-matching"] == (2, "70%")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("killed").experiment_id
    assert len(client.search_runs([experiment], "tags.kind = 'ticket'")) == 2


def test_the_end_of_a_run_registers_and_an_outage_only_delays(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the search fails with the registry; the next end catches up."""
    world, said = make_world(tmp_path, uri, task="ended"), list[str]()

    def close() -> bool:
        tracker = MlflowTracker(uri, "ended", "small", "hash")
        listener = TrackingListener(tracker, world.spec, world.store, said.append)
        for trial in world.trials:
            listener.succeeded(trial, world.results[trial.key])
        listener.finished(SweepOutcome(dict.fromkeys(TrialState, 0), {}, False))
        return listener.close(60)

    with monkeypatch.context() as patch:
        patch.setattr(TicketRegistry, "update", lambda *_: 1 / 0)
        assert not close()
    assert len(said) == 1 and "failed: division by zero" in said[0]
    assert aliases(uri, "ended") == {}
    assert close()
    assert aliases(uri, "ended")["sparsest-matching"] == (2, "70%")


def test_one_mask_for_all_seeds_is_one_file(uri: str, tmp_path: Path) -> None:
    """``replicate: finetune`` makes one mask; its search seed names it."""
    world = make_world(tmp_path, uri, task="tuned", replicate="finetune", search_seed=7)
    world.register("tuned")
    client = MlflowClient(uri)
    run_id = client.get_model_version_by_alias("tickets-bert-tiny-tuned", "s70").run_id
    path = client.download_artifacts(run_id, "ticket/ticket.json", str(tmp_path))
    told = json.loads(Path(path).read_text())
    assert [(mask["seed"], mask["file"]) for mask in told["masks"]] == [(7, "mask.arrow")]
    assert told["default_seed"] == 7
