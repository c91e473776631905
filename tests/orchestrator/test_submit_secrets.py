"""No credential travels with a sweep: variables stay unreplaced, and hashes are of none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.submit_sweep import control_text, written
from orchestrator.submitting import identity
from search_spaces.errors import SpecError
from search_spaces.loading import parse_sweep
from tests.orchestrator.sweeps import write_sweep

pytestmark = pytest.mark.usefixtures("own_cache")


def test_variables_stay_unreplaced(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the environment holds does not travel with the job."""
    monkeypatch.setenv("SECRET", "pa55word")
    monkeypatch.setenv("WHERE", "s3://bucket/tickets")
    tracking = {"uri": "http://user:${SECRET}@mlflow:5000"}
    sweep = write_sweep(tmp_path, "secret", data, store="${WHERE}", tracking=tracking)
    text = control_text(sweep)
    assert "pa55word" not in text
    assert yaml.safe_load(text)["store"] == "${WHERE}"
    assert parse_sweep(text).tracking.uri == "http://user:pa55word@mlflow:5000"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"store": "s3://key:secret@bucket/x"}, "store"),
        ({"store": "s3://${WHERE}:secret@bucket/x"}, "store"),
        ({"tracking": {"uri": "postgresql://me:secret@host/db"}}, "tracking.uri"),
    ],
)
def test_credentials_are_refused(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    field: str,
) -> None:
    """Written credentials would lie in the job's package; the message does not repeat them."""
    monkeypatch.setenv("WHERE", "x")
    with pytest.raises(SpecError, match=rf"{field}: holds credentials.*\$\{{NAME\}}") as caught:
        written(write_sweep(tmp_path, "open", data, **changes))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["postgresql://me:${SECRET}@host/db?sslmode=require", "postgresql://h/db?password=${SECRET}"],
)
def test_variables_for_credentials_are_allowed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    """Who writes what the refusal asks for is not refused again."""
    monkeypatch.setenv("SECRET", "pa55word")
    sweep = write_sweep(tmp_path, "allowed", data, tracking={"uri": uri})
    assert written(sweep)["tracking.uri"] == uri
    assert "pa55word" not in control_text(sweep) and "pa55" not in json.dumps(identity(sweep))


def test_credentials_of_a_variable_elsewhere(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only store and tracking keep their variables, so no other URI may bring credentials in."""
    monkeypatch.setenv("SECRET", "pa55word")
    place = "s3://key:${SECRET}@bucket/tickets/inputs/" + "0" * 64
    source = {"kind": "files", "train": f"{place}/a.csv", "report": f"{place}/b.csv"}
    sweep = write_sweep(tmp_path, "elsewhere", data, tasks=[{"name": "toy", "source": source}])
    with pytest.raises(SpecError) as caught:
        control_text(sweep)
    assert [fault.field for fault in caught.value.faults] == [
        "tasks[0].source.train",
        "tasks[0].source.report",
    ]
    assert "holds credentials" in str(caught.value) and "pa55word" not in str(caught.value)


def test_jobs_of_two_folders_are_two(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep is looked for by where its store is: another's of that name is not stopped."""
    known = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        sweep = write_sweep(tmp_path / name, "same", data, store="runs")
        assert parse_sweep(control_text(sweep)).store == f"{tmp_path}/{name}/runs"
        known.append(identity(sweep))
    assert known[0]["sweep"] == known[1]["sweep"]
    assert known[0]["store"] != known[1]["store"]
    assert known[0]["store_key"] != known[1]["store_key"]


def test_no_hash_of_credentials_travels(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a hash a password could be guessed; the jobs of a store are known without."""
    known = []
    for secret in ("one", "other"):
        monkeypatch.setenv("SECRET", secret)
        store = "s3://key:${SECRET}@bucket/x"
        known.append(identity(write_sweep(tmp_path, "hash", data, store=store)))
    assert known[0] == known[1]


def test_options_in_a_variable(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs lie below the store: its options must be where they can be told from its path."""
    monkeypatch.setenv("WHERE", "s3://bucket/x?region=eu-west-1")
    with pytest.raises(SpecError, match=r"store: has its options after '\?' in a variable"):
        written(write_sweep(tmp_path, "options", data, store="${WHERE}"))
