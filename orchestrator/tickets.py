"""Find a ticket by reference, in MLflow or in a folder, and load it ready to fine-tune."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.errors import Fault, SpecError, UserError
from search_spaces.places import masked
from search_spaces.sources import model_folder
from search_spaces.ticket_info import CARD_FILE, INFO_FILE, TicketInfo, read_info

if TYPE_CHECKING:  # torch and MLflow: loaded when a ticket is
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

    from workers.ticket import Ticket

URI_VARIABLE = "MLFLOW_TRACKING_URI"
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))")
_RUN = re.compile(r"runs:/(?P<run>\w+)/(?P<folder>.+)")
_FORMS = (
    "Give 'models:/NAME@ALIAS', 'models:/NAME/VERSION', 'runs:/ID/ticket', a ticket's folder, "
    "or a mask file, *.arrow."
)


@dataclass(frozen=True)
class TicketFiles:
    """Where a ticket's files are.

    Attributes:
        place: Names the ticket in messages.
        read: Returns a file's content by name; None where there is no such file.
        mask_file: Name of the only file, where the ticket is a bare mask file.
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


def load_ticket(
    ref: str | os.PathLike[str],
    *,
    seed: int | None = None,
    uri: str | None = None,
    model: str | None = None,
    revision: str | None = None,
    num_labels: int | None = None,
) -> Ticket:
    """Return a ticket as a model of transformers at theta_0 x mask, ready to fine-tune.

    Everything is checked by content before it is handed out: theta_0, the configuration, the
    prunable set and the mask.

    Args:
        ref: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``runs:/ID/ticket``, a ticket's
            folder, or a mask file ``*.arrow``.
        seed: Of several masks the one of this search seed; None = the best on select.
        uri: MLflow tracking URI; None = ``$MLFLOW_TRACKING_URI``. Folders and files need none.
        model: Where the pre-trained model is, as a sweep's ``source``; None = as the ticket says.
        revision: Commit on the hub, if ``model`` is a hub name.
        num_labels: Outputs of a fresh classification head; None = the backbone alone.

    Raises:
        SpecError: The pre-trained model's files cannot be had or are no supported BERT.
        UserError: There is no such ticket or mask, MLflow does not answer, or what was found is
            not what the ticket names.
    """
    found = find_ticket(os.fspath(ref), uri)
    info = None if found.mask_file else found.info()
    if info is None:
        name, sha256 = _bare_mask(found, seed, model), None
    else:
        entry = info.mask_of(seed, found.place)
        name, sha256 = entry.file, entry.sha256
    data = found.content(name)
    folder = _model_folder(found.place, info, model, revision)
    from workers.ticket import make_ticket

    return make_ticket(data, f"{found.place}: {name}", folder, info, sha256, num_labels)


def find_ticket(ref: str, uri: str | None = None) -> TicketFiles:
    """Return where a ticket's files are; they are read when asked for.

    Args:
        ref: As for ``load_ticket``.
        uri: MLflow tracking URI; None = ``$MLFLOW_TRACKING_URI``.

    Raises:
        UserError: There is no such ticket, or MLflow does not answer.
    """
    if ref.startswith(("models:", "runs:")):
        return _in_mlflow(ref, uri or os.environ.get(URI_VARIABLE, ""))
    path = Path(ref).expanduser()
    if path.is_file():
        return TicketFiles(str(path), lambda _: _bytes_of(path), mask_file=path.name)
    if path.is_dir():
        return TicketFiles(str(path), lambda name: _bytes_of(path / name))
    raise UserError(f"'{ref}': no ticket is there. {_FORMS}")


def _bare_mask(found: TicketFiles, seed: int | None, model: str | None) -> str:
    """Return a mask file's name if nothing is asked of it that it does not know."""
    if seed is not None:
        raise UserError(f"{found.place}: seed is {seed}, but a mask file holds one mask: leave it.")
    if model is None:
        raise UserError(
            f"{found.place}: a mask file does not name its model. Give model=, as a sweep's "
            "'source': a folder, 'package:<module>/<path>', or a hub name."
        )
    assert found.mask_file is not None
    return found.mask_file


def _model_folder(
    place: str, info: TicketInfo | None, model: str | None, revision: str | None
) -> Path:
    """Return the folder of the pre-trained model's files."""
    if model is not None or info is None:
        return model_folder(model or "", revision, "model")
    try:
        return model_folder(info.model.source, info.model.revision, place)
    except SpecError as error:
        (fault,) = error.faults
        hint = f"{fault.hint} Or give model=, where the same weights are at hand."
        raise SpecError([Fault(place, fault.field, fault.problem, hint)]) from None


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. Check its rights.") from None


def _in_mlflow(ref: str, uri: str) -> TicketFiles:
    registered, run = _REGISTERED.fullmatch(ref), _RUN.fullmatch(ref)
    if not (registered or run):
        raise UserError(f"'{ref}': not a form that tickets are found by. {_FORMS}")
    if not uri:
        raise UserError(f"'{ref}': where is MLflow? Give uri= (--uri), or set {URI_VARIABLE}.")
    from orchestrator.tracking_client import explained, open_client

    client = open_client(uri)
    with explained(uri):
        if run:
            _check_run(client, run["run"], ref, uri)
            return _of_run(client, run["run"], run["folder"], ref, uri)
        assert registered
        return _of_version(client, registered, ref, uri)


def _of_version(client: MlflowClient, asked: re.Match[str], ref: str, uri: str) -> TicketFiles:
    from orchestrator.registry import TICKET_FOLDER
    from orchestrator.registry_versions import registered_model, search_versions

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


def _check_run(client: MlflowClient, run_id: str, ref: str, uri: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(
            f"'{ref}': no run '{run_id}' is at {masked(uri)}. Check the id, and whether --uri "
            "names the right MLflow."
        ) from None


def _of_run(client: MlflowClient, run_id: str, folder: str, ref: str, uri: str) -> TicketFiles:
    from orchestrator.tracking_client import explained

    folder = folder.strip("/")

    def read(name: str) -> bytes | None:
        with explained(uri), tempfile.TemporaryDirectory() as place:
            names = {item.path for item in client.list_artifacts(run_id, folder)}
            if f"{folder}/{name}" not in names:
                return None
            path = client.download_artifacts(run_id, f"{folder}/{name}", place)
            return Path(path).read_bytes()

    return TicketFiles(ref, read)
