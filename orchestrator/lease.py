"""The lease: of all drivers of one sweep on one store, wherever they run, one at a time.

It is a file of the store, ``sweeps/<name>-<hash>/LEASE.json``, so it works on every file system
that the store works on and needs no lock server. Its holder raises a counter in it every
``heartbeat_s``.

**Clocks.** No two machines' clocks are compared. Whoever wants to take over watches the file and
judges by its own monotonic clock: only when the file has not changed for the holder's whole
``term_s`` has the lease run out. A wall clock that jumps therefore neither ends nor prolongs a
lease. A holder measures how long ago its last heartbeat was by a clock that also runs while the
machine sleeps.

**Races.** A new lease is exclusive on a folder. Elsewhere, and in a take-over, the writer looks
once more right before it writes, reads back after ``settle_s`` and has lost if it finds another's
token. Two may believe to hold the lease
only where one of them took longer than ``settle_s`` between its last look and its write, and only
until the next heartbeat of the one whose token is gone. Even then the store stays right: an
attempt has a folder of its own, and of several results of a trial the first committed one counts.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.lease_record import LeaseRecord, decode_lease
from orchestrator.steady_clock import elapsed_s
from orchestrator.storage import Storage
from search_spaces.canonical import short
from search_spaces.errors import UserError

_SWEEPS, _LEASE = "sweeps", "LEASE.json"
_TRIES = 10  # to write a lease where one comes and goes
_log = logging.getLogger(__name__)


class LeaseLostError(UserError):
    """Another driver has taken the sweep over; the message says who."""


@dataclass(frozen=True)
class Timing:
    """How a lease lives.

    Attributes:
        heartbeat_s: Between two heartbeats.
        term_s: Without a heartbeat for as long, another may take over.
        settle_s: Between a write and the look at whether it stayed.
    """

    heartbeat_s: float = 10.0
    term_s: float = 60.0
    settle_s: float = 1.0


def lease_path(name: str, sweep_hash: str) -> str:
    """Return where a sweep's lease lies below the store."""
    return f"{_SWEEPS}/{name}-{short(sweep_hash)}/{_LEASE}"


def others_drive(storage: Storage) -> bool:
    """Whether a process other than this one may drive a sweep on a store.

    A lease that was left behind counts, unless its process was of this machine.

    Raises:
        UserError: The store cannot be read.
    """
    leases = (storage.read(f"{_SWEEPS}/{name}/{_LEASE}") for name in storage.names(_SWEEPS))
    records = [decode_lease(found) for found in leases if found is not None]
    return any(record is None or not (record.is_own or record.has_ended) for record in records)


class Lease:
    """Held from :meth:`acquire` until :meth:`close`; a thread of its own keeps it alive.

    Use :meth:`acquire` to make one.
    """

    def __init__(
        self, storage: Storage, path: str, record: LeaseRecord, timing: Timing, renewed_at: float
    ) -> None:
        self._storage, self._path, self._timing = storage, path, timing
        self._record = record
        self._renewed_at = renewed_at
        self._lost = ""  # why, for people
        self._was_told = False  # that it cannot be renewed
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._live, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(
        cls,
        uri: str,
        name: str,
        sweep_hash: str,
        take_over: bool = False,
        say: Callable[[str], None] = lambda text: None,
        timing: Timing | None = None,
    ) -> Lease:
        """Take the lease of a sweep.

        Args:
            uri: The store.
            name: The sweep's name.
            sweep_hash: What tells the sweep from others of its name.
            take_over: Watch a lease that another holds, and take it once it has run out.
            say: Told that it is being watched.
            timing: How it lives.

        Raises:
            UserError: Another driver holds the lease, or the store cannot be used.
        """
        timing = timing or Timing()
        storage, path = Storage(uri), lease_path(name, sweep_hash)
        record = LeaseRecord.new(timing.term_s)
        for _ in range(_TRIES):
            began = elapsed_s()
            if storage.publish_once(path, record.encode(), timing.settle_s):
                return cls(storage, path, record, timing, began)
            found = storage.read(path)
            if found is None:  # given back this moment
                continue
            _require_over(storage, path, found, take_over, say, timing)
            if storage.read(path) == found:  # else given back, or somebody else was quicker
                began = elapsed_s()
                _replace(storage, path, record, timing.settle_s)
                return cls(storage, path, record, timing, began)
        raise UserError(
            f"{storage.shown(path)}: something is there that is neither a lease nor can be "
            "replaced by one. If nobody runs the sweep, delete it and run the sweep again."
        )

    @property
    def is_current(self) -> bool:
        """Whether nobody can have taken over: the last heartbeat is younger than the term."""
        return not self._lost and elapsed_s() - self._renewed_at < self._timing.term_s

    def check(self) -> None:
        """Do nothing unless another driver has taken over.

        Raises:
            LeaseLostError: It has.
        """
        if self._lost:
            raise LeaseLostError(self._lost)

    def renew(self) -> None:
        """Give a heartbeat now, or find that the lease is lost.

        Raises:
            UserError: The store cannot be used at the moment; the lease is not lost by that.
        """
        began, following = elapsed_s(), self._record.next()
        found = self._storage.read(self._path)
        if found is None:  # somebody deleted the file
            settle_s = self._timing.settle_s
            is_ours = self._storage.publish_once(self._path, following.encode(), settle_s)
        else:
            holder = decode_lease(found)
            is_ours = holder is not None and holder.token == self._record.token
            if is_ours:
                self._storage.replace(self._path, following.encode())
        if not is_ours:
            self._lost = self._loss(found or self._storage.read(self._path))
            return
        if self._was_told:
            _log.warning("The sweep's lease is renewed: trials are started again.")
        self._record, self._renewed_at, self._was_told = following, began, False

    def close(self) -> None:
        """Give the lease back if it is still ours; may be called twice."""
        self._closing.set()
        self._thread.join(timeout=self._timing.term_s)
        if self._lost:
            return
        with contextlib.suppress(UserError):  # whoever comes next sees that this process is gone
            found = self._storage.read(self._path)
            holder = decode_lease(found) if found else None
            if holder is not None and holder.token == self._record.token:
                self._storage.delete(self._path)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _live(self) -> None:
        while not self._lost and not self._closing.wait(self._timing.heartbeat_s):
            try:
                self.renew()
            except Exception as error:  # were the thread to end, nothing would ever start again
                if not self.is_current and not self._was_told:
                    self._was_told = True
                    _log.warning(
                        "The sweep's lease could not be renewed for %g s, so no trial is started "
                        "until it can: %s",
                        self._timing.term_s,
                        error,
                    )

    def _loss(self, found: bytes | None) -> str:
        holder = decode_lease(found) if found else None
        return (
            f"{self._storage.shown(self._path)}: this process ({self._record.pid} on "
            f"{self._record.host}) has lost the sweep to {_who(holder)}. It starts no more trials "
            "and ends; what is committed is safe. Follow the sweep where the other process runs."
        )


def _require_over(
    storage: Storage,
    path: str,
    found: bytes,
    take_over: bool,
    say: Callable[[str], None],
    timing: Timing,
) -> None:
    """Make sure that the holder of a lease is gone, or has shown no life for its whole term.

    Raises:
        UserError: It may be alive.
    """
    holder = decode_lease(found)
    if holder is not None and holder.has_ended:
        return
    place, term_s = storage.shown(path), max(timing.term_s, holder.term_s if holder else 0.0)
    if not take_over:
        raise UserError(
            f"{place}: this sweep is being run by {_who(holder)}. Follow it there with "
            "'tickets status', or end that process first; the sweep then goes on where it "
            "stopped. If it is gone for good, add --take-over to 'tickets run': that watches for "
            f"{term_s:g} s and takes over if no heartbeat comes."
        )
    say(f"Watching the lease of {_who(holder)} for {term_s:g} s before taking over.")
    until = time.monotonic() + term_s
    while (left_s := until - time.monotonic()) > 0:
        time.sleep(min(left_s, timing.heartbeat_s))
        now = storage.read(path)
        if now is None:  # given back
            return
        if now != found:
            raise UserError(
                f"{place}: --take-over is refused: this sweep is being run by "
                f"{_who(decode_lease(now))}, which gave a heartbeat while it was watched. End "
                "that process first."
            )


def _replace(storage: Storage, path: str, record: LeaseRecord, settle_s: float) -> None:
    """Put our record in place of one that is over.

    Raises:
        UserError: Another did the same at the same moment, and its record stayed.
    """
    storage.replace(path, record.encode())
    time.sleep(settle_s)
    found = storage.read(path)
    if found != record.encode():
        holder = decode_lease(found) if found else None
        raise UserError(
            f"{storage.shown(path)}: this sweep was taken over at the same moment by "
            f"{_who(holder)}. Follow it there with 'tickets status'."
        )


def _who(holder: LeaseRecord | None) -> str:
    return holder.who if holder else "somebody whose lease cannot be read"
