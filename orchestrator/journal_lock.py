"""One writer for each journal: an exclusive lock that dies with its process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.processes import beginning, is_gone, this_machine
from search_spaces.errors import UserError


class JournalLock:
    """Holds ``<journal>.lock`` until it is closed or the process ends, however it ends.

    Args:
        journal_path: The journal; the lock file lies beside it and stays there.

    Raises:
        UserError: When another process holds the lock; names its pid, its host and since when.
    """

    def __init__(self, journal_path: Path) -> None:
        self.path = journal_path.with_name(f"{journal_path.name}.lock")
        self._file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 (open as long as held)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read()
            self._file.close()
            raise UserError(_refusal(journal_path, holder)) from None
        except OSError:  # a file system without locks
            self._file.close()
            raise
        self._file.truncate(0)
        self._file.write(json.dumps(_own_description()))
        self._file.flush()

    def close(self) -> None:
        """Give the lock back; may be called twice."""
        self._file.close()


def has_ended(journal_path: Path) -> bool:
    """Return whether the last writer is known to be gone: a process of this machine, no more.

    Looks at the lock without taking it, so that no run is disturbed.
    """
    path = journal_path.with_name(f"{journal_path.name}.lock")
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return is_gone(holder["machine"], int(holder["pid"]), holder["pid_started"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_held(journal_path: Path) -> bool:
    """Return whether a process holds the lock now.

    Unlike the process's number in the file this cannot be somebody else's by chance, but it takes
    a shared lock for an instant, in which a run that begins is refused: only for who must know.
    """
    try:
        with open(journal_path.with_name(f"{journal_path.name}.lock"), encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _own_description() -> dict[str, str | int]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "pid": os.getpid(),
        "pid_started": beginning(os.getpid()),
        "host": socket.gethostname(),
        "machine": this_machine(),
        "since": since,
    }


def _refusal(journal_path: Path, holder: str) -> str:
    try:
        known = json.loads(holder)
        who = f"process {known['pid']} on {known['host']} since {known['since']}"
    except (ValueError, KeyError, TypeError):  # it has the lock, but has not yet said who it is
        who = "another process"
    return (
        f"{journal_path}: this sweep is being run by {who}. Follow it with 'tickets status', "
        "or end that process first; the sweep then goes on where it stopped."
    )
