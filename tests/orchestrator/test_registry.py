"""The registry in a real MLflow on SQLite: winners in, once; aliases follow the verdicts."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_model_alias_name, _validate_model_name

from orchestrator.cli import main
from orchestrator.listeners import SweepOutcome
from orchestrator.registry import TicketRegistry
from orchestrator.registry_commands import registered_tickets
from orchestrator.registry_versions import level_alias, model_name, set_aliases
from orchestrator.tracking import MlflowTracker
from orchestrator.tracking_client import open_client
from orchestrator.tracking_listener import TrackingListener
from search_spaces.contracts import SplitScore, TrialState
from search_spaces.errors import UserError
from search_spaces.trial import Role
from tests.orchestrator.ticket_worlds import World, make_world, two_levels_match

pytest.importorskip("cognition", reason="BERT-tiny's package is not installed")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests of this file; each uses a task of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


def aliases(uri: str, task: str) -> dict[str, tuple[int, str]]:
    """Return version and sparsity in percent of each alias of a task."""
    return {
        alias: (one.version, f"{one.sparsity:.0%}")
        for one in registered_tickets(uri)
        if one.name == f"tickets-bert-tiny-{task}"
        for alias in one.aliases
    }


def statuses(uri: str, task: str) -> dict[int, str]:
    found = [one for one in registered_tickets(uri) if one.name == f"tickets-bert-tiny-{task}"]
    return {one.version: one.status for one in found}


def losing(world: World, sparsity: float) -> World:
    """Return the same sweep, as if its tickets of one level had come out worse."""
    results = dict(world.results)
    for trial in world.trials:
        if trial.kind == "final" and round(trial.main_role.sparsity, 3) == sparsity:
            bad = SplitScore(metrics={"accuracy": 0.1}, num_examples=9, constant_predictor=False)
            changes = {"scores": {"select": bad, "report": bad}}
            results[trial.key] = results[trial.key].model_copy(update=changes)
    return replace(world, results=results)


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


def test_names_that_mlflow_makes_equal_are_told_apart(uri: str, tmp_path: Path) -> None:
    """``a/b`` and ``a:b`` both become ``a_b``; the second gets a hash."""
    assert model_name("a/b", "c d") == "tickets-a_b-c_d"
    for folder, name in (("one", "a/b"), ("two", "a:b")):
        models = [{"name": name, "source": "package:cognition/model"}]
        world = make_world(tmp_path / folder, uri, task="names", models=models, name=folder)
        world.register("names")
    found = {one.name for one in registered_tickets(uri) if "a_b-names" in one.name}
    assert "tickets-a_b-names" in found and len(found) == 2
    assert all(re.fullmatch(r"tickets-a_b-names(-[0-9a-f]{10})?", name) for name in found)


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_name_is_one_that_mlflow_takes(model: str, task: str) -> None:
    _validate_model_name(model_name(model, task))


@given(st.floats(0, 1, exclude_max=True))
def test_every_level_has_an_alias_that_mlflow_takes(sparsity: float) -> None:
    """And it says the sparsity to a tenth of a percent."""
    alias = level_alias(sparsity)
    _validate_model_alias_name(alias)
    assert float(alias[1:].replace("-", ".")) == pytest.approx(100 * sparsity, abs=0.0501)


@pytest.mark.parametrize(
    ("sparsity", "alias"), [(0.7, "s70"), (0.488, "s48-8"), (0.6999995, "s70"), (0.05, "s5")]
)
def test_aliases_of_levels(sparsity: float, alias: str) -> None:
    assert level_alias(sparsity) == alias


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


Say = Callable[..., str]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["tickets", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    return run


def test_the_command_lists_what_is_registered(uri: str, tmp_path: Path, say: Say) -> None:
    """Aliases, sparsity, scores; withdrawn tickets say so; JSON has everything."""
    world = make_world(tmp_path, uri, task="listed")
    world.register("listed")
    losing(world, 0.7).register("listed")
    told = say("registry", "--uri", uri)
    _, _, mine = told.partition("tickets-bert-tiny-listed ")
    row = next(line for line in mine.splitlines() if "@s50" in line)
    assert "imp" in row and "50%" in row and "0.8200" in row and "+0.0000" in row
    assert "withdrawn" in told and "tickets card models:/MODEL@ALIAS" in told
    rows = json.loads(say("registry", "--uri", uri, "--json"))
    (mine,) = [r for r in rows if r["name"].endswith("listed") and r["status"] == "matching"]
    assert mine["aliases"] == ["s50", "sparsest-matching"] and mine["num_seeds"] == 3


def test_an_empty_registry_says_how_to_fill_it(tmp_path: Path, say: Say) -> None:
    uri = f"sqlite:///{tmp_path}/empty.db"
    open_client(uri)
    told = say("registry", "--uri", uri)
    assert "No ticket is registered" in told and "'tickets run'" in told


def test_made_up_scores_are_what_the_tests_say() -> None:
    """The default world: 70% reaches dense, 85% does not."""
    role = Role(kind="final", model="m", task="t", method="imp", seed=1, search_seed=1)
    told = [two_levels_match(role.model_copy(update={"sparsity": s})) for s in (0.0, 0.7, 0.85)]
    assert told == [0.81, 0.81, pytest.approx(0.51)]
