"""A registered ticket's files in its run in MLflow: write them, and see whether they are whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestrator.ticket_card import render_card
from orchestrator.tracking_client import first_line
from search_spaces.canonical import short
from search_spaces.errors import UserError
from search_spaces.places import masked
from search_spaces.ticket_info import CARD_FILE, INFO_FILE, TicketInfo, read_info

TICKET_FOLDER = "ticket"


@dataclass(frozen=True)
class TicketRunState:
    """What is wrong with a ticket's run.

    Attributes:
        is_gone: Whether MLflow has it no more, not even in its trash.
        is_deleted: Whether it lies in the trash.
        files: What is wrong with its files, for people.
    """

    is_gone: bool = False
    is_deleted: bool = False
    files: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """All of it; "" where the run is whole."""
        if self.is_gone:
            return "its run is gone"
        return "; ".join([*(["its run was deleted"] if self.is_deleted else []), *self.files])


def write_ticket(
    client: MlflowClient,
    uri: str,
    run_id: str,
    name: str,
    info: TicketInfo,
    masks: Mapping[str, bytes],
) -> None:
    """Write all of a ticket's files to its run, and close it.

    Args:
        client: Connected.
        uri: Its tracking URI.
        run_id: Of the ticket's run.
        name: Of its registered model.
        info: The ticket with its lineage.
        masks: Mask files by name.
    """
    shown = uri if masked(uri) == uri else ""
    card = render_card(info, f"runs:/{run_id}/{TICKET_FOLDER}", shown, name)
    files = {**masks, CARD_FILE: card.encode()}
    files[INFO_FILE] = info.model_dump_json(indent=2).encode()  # last: with it, all is there
    with tempfile.TemporaryDirectory() as place:
        for file, data in files.items():
            path = Path(place) / file
            path.write_bytes(data)
            client.log_artifact(run_id, str(path), TICKET_FOLDER)
    client.set_terminated(run_id, "FINISHED")


def ticket_run_state(
    client: MlflowClient, run_id: str | None, info: TicketInfo, reads_files: bool
) -> TicketRunState:
    """Look at a ticket's run; nothing is written.

    Args:
        client: Connected.
        run_id: Of the ticket's run; None where its version names none.
        info: What is known about it.
        reads_files: Whether masks and ``ticket.json`` are read; else they need only be there.
    """
    if not run_id:
        return TicketRunState(is_gone=True)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return TicketRunState(is_gone=True)
    is_deleted = run.info.lifecycle_stage != "active"
    return TicketRunState(
        is_deleted=is_deleted, files=tuple(_files(client, run_id, info, reads_files))
    )


def _files(client: MlflowClient, run_id: str, info: TicketInfo, reads_files: bool) -> Iterator[str]:
    there = {item.path for item in client.list_artifacts(run_id, TICKET_FOLDER)}
    for name in (*(mask.file for mask in info.masks), INFO_FILE, CARD_FILE):
        path = f"{TICKET_FOLDER}/{name}"
        if path not in there:
            yield f"file {path} is missing"
        elif reads_files and name != CARD_FILE and (text := _content(client, run_id, info, name)):
            yield f"file {path} {text}"


def _content(client: MlflowClient, run_id: str, info: TicketInfo, name: str) -> str:
    """Return what is wrong with a file's content; "" where nothing is."""
    from workers.mask_file import MaskFileError, read_mask  # reads nothing where nothing is new

    path = f"{TICKET_FOLDER}/{name}"
    with tempfile.TemporaryDirectory() as place:
        try:
            data = Path(client.download_artifacts(run_id, path, place)).read_bytes()
            if name == INFO_FILE:
                told, wanted = read_info(data, path).key, info.key
            else:
                told = read_mask(data, None, path).sha256
                wanted = next(mask.sha256 for mask in info.masks if mask.file == name)
        except (UserError, MaskFileError):
            return "is damaged"
        except (MlflowException, OSError) as error:  # it is written anew
            return f"cannot be read: {first_line(error)}"
    what = "of the ticket" if name == INFO_FILE else "the mask"
    return "" if told == wanted else f"is {what} {short(told)}, not {short(wanted)}"
