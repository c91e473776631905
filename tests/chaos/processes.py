"""Programs that are started as sessions of their own, so that what they start is found and ended.

Everything is found by its session, never by a name alone: other programs of the same name that
run on the machine are not touched.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE_S = 400.0


@dataclass(frozen=True)
class Found:
    """A living process and the name that the kernel has for it, of at most 15 characters."""

    pid: int
    name: str


def processes_of(session: int) -> Iterator[Found]:
    """Yield the processes of a session that have not ended."""
    return _living(session, field=3)


def in_group(group: int) -> Iterator[Found]:
    """Yield the processes of a process group that have not ended."""
    return _living(group, field=2)


def _living(number: int, field: int) -> Iterator[Found]:
    """Look for a number in a field of ``/proc/<pid>/stat``, counted from the state on."""
    for folder in Path("/proc").iterdir():
        try:
            stat = (folder / "stat").read_text() if folder.name.isdigit() else ""
        except OSError:  # it has ended meanwhile
            continue
        name, _, rest = stat.partition("(")[2].rpartition(")")
        fields = rest.split()
        if fields and int(fields[field]) == number and fields[0] not in "ZX":
            yield Found(int(folder.name), name)


def kill(pid: int) -> bool:
    """Send SIGKILL; return whether there was somebody to get it."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: It did not in time.
    """
    deadline_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {patience_s:g} s: {what}")
        time.sleep(0.05)


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(host: str, port: int) -> bool:
    """Whether somebody accepts connections."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


class Program:
    """A command as the leader of a session of its own; its output goes to a file.

    Args:
        arguments: Of Python.
        log: Gets what it says, after what earlier programs said there.
        environment: Beside PATH and the project's own folder.
        before: Words before the interpreter, such as ``ip netns exec NAME``.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        before: Sequence[str] = (),
    ) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [*before, sys.executable, *arguments],
                cwd=log.parent,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.session = self._process.pid

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self._process.poll()

    def named(self, *names: str) -> list[Found]:
        """Return the living processes of the session with one of these names, oldest first."""
        found = (one for one in processes_of(self.session) if one.name in names)
        return sorted(found, key=lambda one: one.pid)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Wait for the command's own end and return its exit code.

        Raises:
            TimeoutError: It did not end in time.
        """
        wait_for(lambda: self.code is not None, f"the end of {self.log.name}", patience_s)
        return self._process.wait()

    def kill(self) -> None:
        """End the command by SIGKILL, and nothing that it has started."""
        self._process.kill()
        self._process.wait()

    def interrupt(self) -> None:
        """Send SIGTERM to the command alone."""
        self._process.terminate()

    def close(self) -> None:
        """End the whole session; may be called twice."""
        while [kill(one.pid) for one in processes_of(self.session)]:
            time.sleep(0.05)
        self._process.wait()
