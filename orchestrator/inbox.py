"""The inbox of a sweep: commands to whoever drives it, one durable file each, beside the journal.

Anybody puts in, one driver takes out. A file appears whole (it is renamed into place), lies there
while no driver runs, and goes once the journal holds its answer; the journal tells whether a
command that is found after a crash was carried out (docs/decisions/0009).
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from orchestrator.whole_files import sync_folder
from search_spaces.canonical import Frozen
from search_spaces.errors import UserError

Verb = Literal["pause", "resume", "cancel", "retry", "stop"]
_LOG = logging.getLogger(__name__)


class Command(Frozen):
    """What somebody asks of a sweep.

    Attributes:
        id: Unique; sorts by the time of sending.
        at: Seconds since the epoch.
        keys: Keys of the trials that it is about; empty where it is about the sweep.
        everything: cancel: every open trial; retry: every failed one.
    """

    id: str = Field(pattern=r"^[0-9]{20}-[0-9a-f]{8}$")
    at: float
    verb: Verb
    keys: tuple[str, ...] = ()
    everything: bool = False

    @staticmethod
    def new(verb: Verb, keys: tuple[str, ...] = (), everything: bool = False) -> Command:
        """Return a command that is sent now."""
        now_ns = time.time_ns()
        name = f"{now_ns:020d}-{secrets.token_hex(4)}"
        return Command(id=name, at=now_ns / 1e9, verb=verb, keys=keys, everything=everything)


class Inbox:
    """The commands that wait for a sweep's driver.

    Args:
        journal_path: The sweep's journal; the folder ``<journal>.inbox`` lies beside it.
    """

    def __init__(self, journal_path: Path) -> None:
        self.folder = journal_path.with_name(f"{journal_path.name}.inbox")
        self._told: set[str] = set()  # files that could not be read

    def put(self, command: Command) -> None:
        """Leave a command; it survives whatever ends after this returns.

        Raises:
            UserError: The folder cannot be written.
        """
        target = self._place(command.id)
        draft = target.with_name(f".{target.name}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with draft.open("w", encoding="utf-8") as file:
                file.write(command.model_dump_json())
                file.flush()
                os.fsync(file.fileno())
            draft.rename(target)
            sync_folder(self.folder)
        except OSError as error:
            raise UserError(
                f"{self.folder}: the command cannot be left for the sweep ({error}). "
                "Check the folder's rights and its disk."
            ) from error

    def waiting(self) -> list[Command]:
        """Return the commands that wait, oldest first; one look at a folder, mostly empty.

        A file that is no command of this version, or not the one of its name, is set aside under
        the name ``*.unread``; one that cannot be read now is tried again at the next look.
        """
        found = (self._read(self.folder / name) for name in self._names())
        return [command for command in found if command]

    @property
    def num_waiting(self) -> int:
        """Number of commands that wait, unread."""
        return len(self._names())

    def remove(self, command_id: str) -> bool:
        """Take a command away; False when it is gone already, or not ours to remove."""
        try:
            self._place(command_id).unlink()
        except OSError:
            return False
        return True

    def _names(self) -> list[str]:
        try:
            found = sorted(os.listdir(self.folder))
        except OSError:  # nobody has sent any
            return []
        return [name for name in found if name.endswith(".json") and not name.startswith(".")]

    def _place(self, command_id: str) -> Path:
        return self.folder / f"{command_id}.json"

    def _read(self, path: Path) -> Command | None:
        try:
            command = Command.model_validate_json(path.read_bytes())
        except FileNotFoundError:  # taken back by its sender
            return None
        except OSError as error:
            self._tell(path, error)
            return None
        except ValidationError as error:
            self._set_aside(path, error)
            return None
        if path.stem != command.id:
            self._set_aside(path, f"it says that it is {command.id}")
            return None
        return command

    def _set_aside(self, path: Path, problem: object) -> None:
        self._tell(path, f"it is no command that this version knows: {problem}")
        with suppress(OSError):
            path.replace(path.with_suffix(".unread"))

    def _tell(self, path: Path, problem: object) -> None:
        """Say that a command cannot be read; once, however often somebody looks."""
        if path.name not in self._told:
            self._told.add(path.name)
            _LOG.warning("The command %s is not carried out: %s", path, problem)
