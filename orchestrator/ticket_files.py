"""Find a ticket's files by reference, in MLflow or in a folder; loads no training library."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.ticket_queries import PREFIX, find_version, query_fields
from search_spaces.errors import UserError
from search_spaces.places import masked
from search_spaces.ticket_info import CARD_FILE, INFO_FILE, TicketInfo, read_info

if TYPE_CHECKING:  # MLflow: loaded when a reference leads there
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import RegisteredModel

URI_VARIABLE = "MLFLOW_TRACKING_URI"
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))")
_RUN = re.compile(r"runs:/(?P<run>\w+)/(?P<folder>.+)")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_FORMS = (
    "Give 'models:/NAME@ALIAS', 'models:/NAME/VERSION', 'runs:/ID/ticket', a ticket's folder, "
    "a mask file, *.arrow, 'query:task=NAME,sparsity=0.7', or the id of a run: of a trial's, a "
    "verdict's or a ticket's."
)


@dataclass(frozen=True)
class TicketFiles:
    """Where a ticket's files are.

    Attributes:
        place: Names the ticket in messages.
        read: Returns a file's content by name; None where there is no such file.
        mask_file: Name of the only file, where there is a bare mask file.
    """

    place: str
    read: Callable[[str], bytes | None]
    mask_file: str | None = None

    def info(self) -> TicketInfo:
        """Return what the ticket's ``ticket.json`` says.

        Raises:
            UserError: It has none, or it is damaged.
        """
        if self.mask_file:
            raise UserError(
                f"{self.place}: a bare mask file tells nothing of its ticket. Look at it with "
                "'tickets mask show', or name the ticket itself."
            )
        return read_info(self.content(INFO_FILE), f"{self.place}: {INFO_FILE}")

    def card(self) -> str:
        """Return the model card, Markdown; errors as for ``info``."""
        self.info()
        return self.content(CARD_FILE).decode(errors="replace")

    def content(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            UserError: There is no such file.
        """
        data = self.read(name)
        if data is None:
            raise UserError(f"{self.place}: holds no {name}, so it is no whole ticket. {_FORMS}")
        return data


def is_local(ref: str) -> bool:
    """Whether a reference names a file or folder, so that MLflow is not asked."""
    is_run = _RUN_ID.fullmatch(ref) and not Path(ref).exists()
    return not (is_run or ref.startswith(("models:", "runs:", PREFIX)))


def find_ticket(ref: str, uri: str | None = None) -> TicketFiles:
    """Return where a ticket's files are; they are read when asked for.

    Args:
        ref: As for ``load_ticket``.
        uri: MLflow tracking URI; None = ``$MLFLOW_TRACKING_URI``.

    Raises:
        UserError: There is no such ticket, or MLflow does not answer.
    """
    if not is_local(ref):
        return _in_mlflow(ref, uri or os.environ.get(URI_VARIABLE, ""))
    path = Path(os.path.expanduser(ref))
    if path.is_file():
        return TicketFiles(str(path), lambda _: _bytes_of(path), mask_file=path.name)
    if path.is_dir():
        return TicketFiles(str(path), lambda name: _bytes_of(path / name))
    raise UserError(f"'{ref}': no ticket is there. {_FORMS}")


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. Check its rights.") from None


def _in_mlflow(ref: str, uri: str) -> TicketFiles:
    registered, run = _REGISTERED.fullmatch(ref), _RUN.fullmatch(ref)
    is_query = ref.startswith(PREFIX)
    if is_query:
        query_fields(ref)
    elif not (registered or run or _RUN_ID.fullmatch(ref)):
        raise UserError(f"'{ref}': not a form that tickets are found by. {_FORMS}")
    if not uri:
        raise UserError(f"'{ref}': where is MLflow? Give uri= (--uri), or set {URI_VARIABLE}.")
    from orchestrator.ticket_run import TICKET_FOLDER
    from orchestrator.tracking_client import explained, open_existing

    client = open_existing(uri)
    with explained(uri):
        if is_query:
            return _of_run(client, str(find_version(client, ref).run_id), TICKET_FOLDER, ref, uri)
        if run:
            _check_run(client, run["run"], ref, uri)
            return _of_run(client, run["run"], run["folder"], ref, uri)
        if registered:
            return _of_version(client, registered, ref, uri)
        return _of_any_run(client, _check_run(client, ref, ref, uri), ref, uri)


def _of_version(client: MlflowClient, asked: re.Match[str], ref: str, uri: str) -> TicketFiles:
    from orchestrator.registry_versions import registered_model, search_versions
    from orchestrator.ticket_run import TICKET_FOLDER

    model = registered_model(client, asked["name"])
    if model is None:
        raise _unknown_model(client, asked["name"], ref, uri)
    aliases = {alias: str(number) for alias, number in model.aliases.items()}
    number = aliases.get(asked["alias"]) if asked["alias"] else asked["version"]
    versions = {str(v.version): v for v in search_versions(client, f"name = '{model.name}'")}
    if number not in versions:
        raise _unknown_version(model, aliases, sorted(versions, key=int), ref)
    run_id = versions[number].run_id
    if not run_id or "ticket_key" not in versions[number].tags:
        raise UserError(f"'{ref}': version {number} of {model.name} is no ticket of ours. {_FORMS}")
    return _of_run(client, run_id, TICKET_FOLDER, ref, uri)


def _unknown_model(client: MlflowClient, name: str, ref: str, uri: str) -> UserError:
    from orchestrator.registry_versions import ticket_models

    known = ", ".join(one.name for one in ticket_models(client)) or "none"
    return UserError(
        f"'{ref}': no registered model '{name}' is at {masked(uri)}; tickets there: {known}. "
        "'tickets registry' lists them; 'tickets run' registers a sweep's winners."
    )


def _unknown_version(
    model: RegisteredModel, aliases: dict[str, str], versions: list[str], ref: str
) -> UserError:
    named = ", ".join(f"@{alias}" for alias in sorted(aliases)) or "none"
    return UserError(
        f"'{ref}': {model.name} has no such version or alias. Its versions: "
        f"{', '.join(versions) or 'none'}; its aliases: {named}."
    )


def _of_any_run(client: MlflowClient, run: Run, ref: str, uri: str) -> TicketFiles:
    """Return the files of a run by its id: its ticket, its verdict's, or a trial's mask."""
    from orchestrator.registry_versions import search_versions
    from orchestrator.ticket_run import TICKET_FOLDER
    from orchestrator.tracking_client import quoted

    kind, run_id = run.data.tags.get("kind", "of no kind"), run.info.run_id
    if kind == "ticket":
        return _of_run(client, run_id, TICKET_FOLDER, ref, uri)
    if kind == "verdict":  # a ticket is registered with the trials that its verdict is about
        trials = quoted(run.data.tags.get("trials", ""))
        found = search_versions(client, f"tags.trials = {trials}")
        ids = [version.run_id for version in found if version.run_id]
        if ids:
            return _of_run(client, ids[0], TICKET_FOLDER, ref, uri)
        raise UserError(
            f"'{ref}': the verdict's ticket is not registered, since it does not match under its "
            "sweep's rule or its masks are not kept. Name the run of one of its finals instead."
        )
    masks = [item.path for item in client.list_artifacts(run_id, "masks")]
    if len(masks) != 1:
        raise UserError(
            f"'{ref}': the run ({kind}) keeps no mask: only runs of finals do. {_FORMS}"
        )
    return _of_run(client, run_id, "masks", ref, uri, masks[0].removeprefix("masks/"))


def _check_run(client: MlflowClient, run_id: str, ref: str, uri: str) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(
            f"'{ref}': no run '{run_id}' is at {masked(uri)}. Check the id, and whether --uri "
            "names the right MLflow."
        ) from None


def _of_run(
    client: MlflowClient,
    run_id: str,
    folder: str,
    ref: str,
    uri: str,
    mask_file: str | None = None,
) -> TicketFiles:
    from orchestrator.tracking_client import explained

    folder = folder.strip("/")

    def read(name: str) -> bytes | None:
        with explained(uri), tempfile.TemporaryDirectory() as place:
            names = {item.path for item in client.list_artifacts(run_id, folder)}
            if f"{folder}/{name}" not in names:
                return None
            path = client.download_artifacts(run_id, f"{folder}/{name}", place)
            return Path(path).read_bytes()

    return TicketFiles(ref, read, mask_file)
