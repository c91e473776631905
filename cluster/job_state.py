"""How a job of a cluster gets on, what its end means, and what it has printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

_STOPPED = 130  # as a run ends that somebody stopped
_LOST = 1
_NO_COMMAND = (126, 127)  # of a shell: what was to run is no program there
_OWN_ENDS = (0, 1, 2, _STOPPED)  # exit codes by which a run itself says how it ended


@dataclass(frozen=True)
class JobState:
    """How a job gets on, or how it has ended.

    Attributes:
        job_id: Its submission id.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; LOST where the cluster knows it no
            more.
        driver_exit_code: Of the command; None while it runs, or when nobody saw it end.
        message: What Ray says of it, for people.
        metadata: Of its order.
        started_at: Seconds since the epoch; 0 before it starts.
    """

    job_id: str
    status: str
    driver_exit_code: int | None = None
    message: str = ""
    metadata: Mapping[str, str] | None = None
    started_at: float = 0.0

    @property
    def is_ended(self) -> bool:
        """Whether it will change no more."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED", "LOST")

    @property
    def exit_code(self) -> int:
        """Exit code for the command that followed the job; a signal counts as in a shell."""
        if self.status == "STOPPED":
            return _STOPPED
        if self.driver_exit_code is None:
            return 0 if self.status == "SUCCEEDED" else _LOST
        code = self.driver_exit_code
        return code if code >= 0 else 128 - code

    @property
    def is_infrastructure(self) -> bool:
        """Whether its driver was lost, so that the same job may be submitted again.

        A run that ended by itself said why by its exit code, of which 75 asks for another run
        (cluster or store were lost); one that was stopped was meant to be; an interpreter that
        is not there will not be there the next time either. SIGTERM (143) comes from a node that
        goes away: `tickets stop` ends a run by 130, and Ray calls a job that it ended STOPPED.
        """
        if self.status not in ("FAILED", "LOST"):
            return False
        code = self.driver_exit_code
        return code is None or code not in (*_OWN_ENDS, *_NO_COMMAND)


class Printed:
    """Passes a job's text on once, though a broken connection begins it anew."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._num_written = self._at = 0

    def begin(self) -> None:
        """Note that the text begins anew."""
        self._at = 0

    def take(self, text: str) -> None:
        """Pass on what was not there before."""
        fresh = text[max(0, self._num_written - self._at) :]
        self._at += len(text)
        if fresh:
            self._write(fresh)
        self._num_written = max(self._num_written, self._at)

    def rest(self, whole: str) -> None:
        """Pass on the end of the whole text."""
        self.begin()
        self.take(whole)
