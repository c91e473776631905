"""What a lease's file says: who drives a sweep, and how often it has shown life."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from datetime import UTC, datetime

from pydantic import Field, ValidationError

from orchestrator.processes import beginning, is_gone, this_machine
from search_spaces.canonical import Frozen

LEASE_SCHEMA = 1
_MOST_TERM_S = 3600.0  # longer, and a wrong lease would keep a sweep from running for good


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
            machine=this_machine(),
            pid=os.getpid(),
            pid_started=beginning(os.getpid()),
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
    def is_own(self) -> bool:
        """Whether this process is the holder."""
        return (self.machine, self.pid) == (this_machine(), os.getpid())

    @property
    def has_ended(self) -> bool:
        """Whether the holder is surely gone: a process of this machine that is no more."""
        return is_gone(self.machine, self.pid, self.pid_started)

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


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
