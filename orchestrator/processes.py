"""Whether a process is surely gone: its number alone says little, it is given anew."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

_OVER = ("Z", "X")  # killed, and not yet waited for by its parent
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_machine() -> str:
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


def beginning(pid: int) -> str:
    """Return when a process of this machine began, in the kernel's ticks; '' where unknown."""
    return _stat(pid)[1]


def is_gone(machine: str, pid: int, began: str) -> bool:
    """Whether a process is surely no more; where nobody can tell from here it may be alive.

    Args:
        machine: What `this_machine` was to it.
        pid: Its number there.
        began: What `beginning` was to it.
    """
    if pid <= 0 or not machine or machine != this_machine():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's
        pass
    state, found = _stat(pid)
    return state in _OVER or (found != "" and began != "" and found != began)


def _stat(pid: int) -> tuple[str, str]:
    """Return a process's state and when it began; '' where unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", ""
    fields = stat.rpartition(")")[2].split()
    return fields[0], fields[19]
