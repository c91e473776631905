"""Credentials in the URI of a store or of MLflow are used, and never shown."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from orchestrator.compare_sides import find, parse_selector
from orchestrator.store import Store
from orchestrator.tracking_client import _anonymous, open_client
from search_spaces.contracts import ArtifactRef
from search_spaces.errors import UserError
from search_spaces.places import masked
from workers.artifacts import read_artifact
from workers.failures import TrialFailure

STORE = "mock://ann:s3cret@host/results"  # a file system of pyarrow's that is always empty


@pytest.mark.parametrize(
    "call",
    [
        lambda: find(parse_selector("abcdef"), Store(STORE)),
        lambda: read_artifact(ArtifactRef(uri=f"{STORE}/k/attempts/a/f", sha256="0" * 64)),
        lambda: read_artifact(ArtifactRef(uri=f"{STORE}/given/f", sha256="0" * 64)),
    ],
)
def test_messages_name_a_store_without_them(call: Callable[[], object]) -> None:
    with pytest.raises((UserError, TrialFailure), match=r"mock://\*\*\*@host/results") as told:
        call()
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize("option", ["password", "token", "access_key", "secret_key", "api_key"])
def test_secret_options_are_masked(option: str) -> None:
    shown = masked(f"s3://bucket?{option}=s3cret&region=x")
    assert shown == f"s3://bucket?{option}=***&region=x"


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("http://ann:s3c:r@t@host:5000/", "http://host:5000"),
        ("https://host/mlflow/", "https://host/mlflow"),
    ],
)
def test_a_server_is_asked_for_without_them(uri: str, asked: str) -> None:
    """Else urllib looks for a host of that name, and repeats the password in what it says."""
    assert _anonymous(uri) == asked


def test_mlflow_prints_no_line_with_the_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would print one with the credentials for every run that ends."""
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    with pytest.raises(UserError):
        open_client("http://127.0.0.1:9")
    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"
