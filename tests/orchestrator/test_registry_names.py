"""The registry in words: names and aliases that MLflow takes, and what the command lists."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_model_alias_name, _validate_model_name

from orchestrator.cli import main
from orchestrator.registry_commands import registered_tickets
from orchestrator.registry_versions import level_alias, model_name
from orchestrator.tracking_client import open_client
from search_spaces.trial import Role
from tests.orchestrator.ticket_worlds import losing, make_world, two_levels_match

pytest.importorskip("cognition", reason="BERT-tiny's package is not installed")


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
