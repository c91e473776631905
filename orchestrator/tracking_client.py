"""Reach an MLflow tracking server or database, or say within seconds that it does not answer."""

from __future__ import annotations

import http.client
import logging
import os
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from search_spaces.canonical import content_key
from search_spaces.errors import UserError
from search_spaces.places import at_home, masked, tracking_problem

ANSWER_TIMEOUT_S = 10.0
_PAGE = 1000
_SETTINGS = {
    # MLflow repeats every request, for over four minutes by default, also one that was carried out
    # and whose answer got lost: a run is then there twice. The mirror repeats by itself.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Else a line with the URI, and the credentials in it, is printed for every run that ends.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

# What MLflow's client lets through, beside the errors of libraries that keep files for it, such as
# boto3, or their absence: errors of requests and urllib are OSErrors.
_FAILURES = (MlflowException, SQLAlchemyError, OSError, http.client.HTTPException, ImportError)
_OURS = {"builtins", "orchestrator", "cluster", "workers", "search_spaces"}
_CHATTY = ("alembic", "mlflow.store.db.utils")  # they narrate how a new database is made


def open_client(uri: str, timeout_s: float = ANSWER_TIMEOUT_S) -> MlflowClient:
    """Return a client of a tracking URI that answers; a new SQLite store is created.

    Settings of MLflow's that the environment names stay as they are.

    Raises:
        UserError: The URI is a folder, is not understood, or does not answer in time.
    """
    uri = at_home(uri)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    if problem := tracking_problem(uri):
        raise UserError(f"tracking.uri: {problem}.")
    if uri.startswith("sqlite:///"):
        _make_parent(uri)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if uri.startswith(("http://", "https://")):
        _probe(uri, timeout_s)
    return _connected(uri, None if uri.startswith("sqlite:") else timeout_s)


def open_existing(uri: str) -> MlflowClient:
    """Return a client to read with: no database is made where there is none.

    Raises:
        UserError: As for `open_client`, or the database does not exist.
    """
    uri = at_home(uri)
    if uri.startswith("sqlite:///") and not _sqlite_file(uri).exists():
        raise UserError(
            f"tracking.uri: there is no database {_sqlite_file(uri)}. "
            "Run a sweep that writes it first, or name another one."
        )
    return open_client(uri)


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn whatever MLflow's client raises inside into one sentence with the next step.

    Raises:
        UserError: A call failed.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, _FAILURES) and type(error).__module__.split(".")[0] in _OURS:
            raise  # a message of ours, or a mistake
        raise UserError(
            f"tracking.uri: MLflow at '{masked(uri)}' failed: {first_line(error)}. "
            "See that it runs and that you may use it; what is in the store is safe."
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, without credentials; else its type."""
    return masked((str(error).splitlines() or [type(error).__name__])[0]).rstrip(". ")


def active_experiment(client: MlflowClient, uri: str, name: str) -> str | None:
    """Return an experiment's id; None where no experiment has the name.

    Raises:
        UserError: It was deleted; MLflow keeps the name and refuses to write.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        return None
    if found.lifecycle_stage != "active":
        raise UserError(
            f"experiment '{name}' at {masked(uri)} was deleted in MLflow. Restore it with 'mlflow "
            f"experiments restore --experiment-id {found.experiment_id}', or name another "
            "tracking.experiment."
        )
    return str(found.experiment_id)


def found_or_made_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Return an experiment's id; one that is made keeps its files beside a SQLite database.

    Raises:
        UserError: It was deleted.
    """
    found = active_experiment(client, uri, name)
    if found is not None:
        return found
    place = None
    if uri.startswith("sqlite:///"):  # else files would lie below the current folder
        folder = _sqlite_file(uri).absolute().parent
        place = (folder / "mlartifacts" / content_key(name)[:10]).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=place))
    except MlflowException:
        found = active_experiment(client, uri, name)  # somebody else was quicker
        if found is None:
            raise
        return found


def search_all(
    client: MlflowClient,
    experiment_id: str,
    condition: str,
    view: int = ViewType.ACTIVE_ONLY,
    on_page: Callable[[], None] = lambda: None,
) -> list[Run]:
    """Return all runs that fulfil an MLflow filter; see `search_each`."""
    return list(search_each(client, experiment_id, condition, view, on_page))


def search_each(
    client: MlflowClient,
    experiment_id: str,
    condition: str,
    view: int = ViewType.ACTIVE_ONLY,
    on_page: Callable[[], None] = lambda: None,
) -> Iterator[Run]:
    """Yield the runs that fulfil an MLflow filter, page by page; each once.

    MLflow counts pages from the newest run: one that begins meanwhile moves an older run to the
    next page, where it is met again.

    Args:
        client: Connected.
        experiment_id: Where to look.
        condition: The filter.
        view: Active runs, deleted ones or both.
        on_page: Told after each page.
    """
    seen, token = set[str](), None
    while True:
        page = client.search_runs([experiment_id], condition, view, _PAGE, page_token=token)
        on_page()
        yield from (run for run in page if run.info.run_id not in seen)
        seen.update(run.info.run_id for run in page)
        token = page.token
        if not token:
            return


def quoted(value: str) -> str:
    """Return a value as a string of MLflow's filter language.

    Raises:
        UserError: The value holds both kinds of quotation marks, which that language cannot say.
    """
    mark = '"' if "'" in value else "'"
    if mark in value:
        raise UserError(f"{value!r} holds both ' and \", but may hold only one kind. Rename it.")
    return f"{mark}{value}{mark}"


def _sqlite_file(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").split("?")[0])


def _make_parent(uri: str) -> None:
    folder = _sqlite_file(uri).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"tracking.uri: the folder of '{masked(uri)}' cannot be made: {error}. "
            "Name a place where you may write."
        ) from error


def _probe(uri: str, timeout_s: float) -> None:
    """Ask a server for anything at all: also a refusal is an answer."""
    try:
        urllib.request.urlopen(f"{_anonymous(uri)}/health", timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):
            raise _unreachable(uri, first_line(error)) from error
        # It answers. Which certificates MLflow's client accepts is set by variables of its own.
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _unreachable(uri, first_line(error)) from error


def _anonymous(uri: str) -> str:
    """Return a server's URI without credentials: urllib takes them for a part of the host."""
    parts = urllib.parse.urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


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
        raise _unreachable(uri, first_line(errors[0])) from errors[0]
    if not opened:
        raise _unreachable(uri, f"no answer within {timeout_s:g} s")
    return opened[0]


def _unreachable(uri: str, problem: str) -> UserError:
    return UserError(
        f"tracking.uri: MLflow at '{masked(uri)}' does not answer: {problem}. "
        "Start the server, or write another tracking.uri, for example 'sqlite:///mlflow.db'."
    )
