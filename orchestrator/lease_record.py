"""What a lease's file says: who drives a sweep, and how often it has shown life."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from search_spaces.canonical import Frozen

LEASE_SCHEMA = 1
_MOST_TERM_S = 3600.0  # longer, and a wrong lease would keep a sweep from running for good
_OVER = ("Z", "X")  # killed, and not yet waited for by its parent
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LeaseRecord(Frozen):
    """The content of a LEASE.json.

    Attributes:
        schema_version: Of this file.
        token: Random; whoever finds another than its own has lost the lease.
        counter: Number of heartbeats; the only thing by which others judge whether it lives.
        term_s: Seconds without a heartbeat after which another may take over.
        host: For people.
        machine: Host, boot and process namespace: where ``pid`` means something.
        pid: Of the driver.
        pid_started: When the process began, in the kernel's ticks: a number given anew differs.
        user: For people.
        since: When the lease was taken, by its holder's clock; UTC, ISO 8601.
        heartbeat_at: Of the last heartbeat, by its holder's clock; only for people.
    """

    schema_version: int = LEASE_SCHEMA
    token: str
    counter: int = Field(ge=0)
    term_s: float = Field(gt=0, le=_MOST_TERM_S)
    host: str
    machine: str
    pid: int = Field(gt=0)
    pid_started: str
    user: str
    since: str
    heartbeat_at: str

    @classmethod
    def new(cls, term_s: float) -> LeaseRecord:
        """Return the first record of this process's lease."""
        return cls(
            token=secrets.token_hex(16),
            counter=0,
            term_s=term_s,
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            pid_started=_process(os.getpid())[1],
            user=_user(),
            since=_now(),
            heartbeat_at=_now(),
        )

    def next(self) -> LeaseRecord:
        """Return the record of the next heartbeat."""
        return self.model_copy(update={"counter": self.counter + 1, "heartbeat_at": _now()})

    def encode(self) -> bytes:
        """Return the file's content."""
        return self.model_dump_json(indent=1).encode() + b"\n"

    @property
    def has_ended(self) -> bool:
        """Whether the holder is surely gone: a process of this machine that is no more."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # another user's
            pass
        state, started = _process(self.pid)
        return state in _OVER or (started != "" and started != self.pid_started)

    @property
    def who(self) -> str:
        """The holder, for people."""
        return (
            f"process {self.pid} on {self.host} since {self.since} "
            f"(user {self.user}; heartbeat {self.counter} at {self.heartbeat_at} by its clock)"
        )


def decode_lease(data: bytes) -> LeaseRecord | None:
    """Return what a lease says; None when it is damaged or of a version not known here."""
    try:
        record = LeaseRecord.model_validate_json(data)
    except ValidationError:
        return None
    return record if record.schema_version == LEASE_SCHEMA else None


def _machine() -> str:
    """Return what tells this machine, its boot and its process namespace from all others.

    '' where two containers of one name could not be told apart.
    """
    try:
        boot, space = _BOOT_ID.read_text().strip(), os.readlink("/proc/self/ns/pid")
    except OSError:
        if sys.platform == "linux":
            return ""
        boot = space = ""  # no Linux: then the host's name must do
    return f"{socket.gethostname()} {boot} {space}"


def _process(pid: int) -> tuple[str, str]:
    """Return a process's state and when it began, in ticks since the boot; '' where unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", ""
    fields = stat.rpartition(")")[2].split()
    return fields[0], fields[19]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
