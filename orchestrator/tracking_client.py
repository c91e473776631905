"""Reach an MLflow tracking server or database, or say within seconds that it does not answer."""

from __future__ import annotations

import logging
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from search_spaces.errors import UserError

ANSWER_TIMEOUT_S = 10.0
_PAGE = 1000
# MLflow repeats a request for over four minutes by default. The mirror catches up by itself.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

_CHATTY = ("alembic", "mlflow.store.db.utils")  # they narrate how a new database is made


def open_client(uri: str, timeout_s: float = ANSWER_TIMEOUT_S) -> MlflowClient:
    """Return a client of a tracking URI that answers; a new SQLite store is created.

    Settings of MLflow's that the environment names stay as they are.

    Raises:
        UserError: The URI is a folder, is not understood, or does not answer in time.
    """
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    if "://" not in uri or uri.startswith("file:"):
        raise UserError(
            f"tracking.uri: '{uri}' is a folder, and MLflow no longer keeps runs in folders. "
            "Write 'sqlite:///mlflow.db', or the URI of a server or database."
        )
    if uri.startswith("sqlite:///"):
        _make_parent(uri)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if uri.startswith(("http://", "https://")):
        _probe(uri, timeout_s)
    return _connected(uri, None if uri.startswith("sqlite:") else timeout_s)


def search_all(client: MlflowClient, experiment_id: str, condition: str) -> list[Run]:
    """Return all runs that fulfil an MLflow filter, page by page."""
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], condition, max_results=_PAGE, page_token=token)
        runs.extend(page)
        token = page.token
        if not token:
            return runs


def quoted(value: str) -> str:
    """Return a value as a string of MLflow's filter language.

    Raises:
        UserError: The value holds both kinds of quotation marks, which that language cannot say.
    """
    mark = '"' if "'" in value else "'"
    if mark in value:
        raise UserError(f"{value!r} holds both ' and \", but may hold only one kind. Rename it.")
    return f"{mark}{value}{mark}"


def _make_parent(uri: str) -> None:
    folder = Path(uri.removeprefix("sqlite:///").split("?")[0]).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"tracking.uri: the folder of '{uri}' cannot be made: {error}. "
            "Name a place where you may write."
        ) from error


def _probe(uri: str, timeout_s: float) -> None:
    """Ask a server for anything at all: also a refusal is an answer."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        raise _unreachable(uri, str(error)) from error


def _connected(uri: str, timeout_s: float | None) -> MlflowClient:
    """Open the store in a thread of its own, because drivers of databases may wait for ever."""
    opened: list[MlflowClient] = []
    errors: list[Exception] = []

    def connect() -> None:
        try:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
            opened.append(client)
        except Exception as error:  # whatever a database driver raises
            errors.append(error)

    thread = threading.Thread(target=connect, name="mlflow-connect", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise _unreachable(uri, str(errors[0])) from errors[0]
    if not opened:
        raise _unreachable(uri, f"no answer within {timeout_s:g} s")
    return opened[0]


def _unreachable(uri: str, problem: str) -> UserError:
    return UserError(
        f"tracking.uri: MLflow at '{uri}' does not answer: {problem.splitlines()[0]}. "
        "Start the server, or write another tracking.uri, for example 'sqlite:///mlflow.db'."
    )
