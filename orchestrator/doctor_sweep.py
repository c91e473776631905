"""What the doctor looks at of one sweep: its store, its lease and its journal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.driver_life import driver_life
from orchestrator.findings import Finding
from orchestrator.journal_file import BrokenJournalError
from orchestrator.journal_reader import open_reader
from orchestrator.lease_record import decode_lease
from orchestrator.storage import Storage
from orchestrator.store_survey import StoreSurvey, survey
from search_spaces.contracts import TrialState
from search_spaces.errors import UserError

_SHOWN = 3


def look_at_store(uri: str, seen: StoreSurvey, patience_s: float) -> list[Finding]:
    """Count what a store holds, whole and not.

    Args:
        uri: The store.
        seen: Is filled with what is found.
        patience_s: After it the rest is only counted.
    """
    try:
        vars(seen).update(vars(survey(uri, patience_s)))
    except UserError as error:
        return [Finding("store", "fail", str(error), "See the sentence before.")]
    said = f"{len(seen.committed):,} trials are committed"
    said += f"; {seen.num_unseen:,} more were not looked at for want of time." * bool(
        seen.num_unseen
    )
    found = [Finding("markers", "ok", said.rstrip(".") + ".")]
    if seen.damaged:
        said = f"{len(seen.damaged)} damaged: {_some(seen.damaged)}."
        todo = "The next 'tickets run' moves them to quarantine and runs their trials again."
        found.append(Finding("markers", "warn", said, todo))
    if seen.foreign:
        said = f"{len(seen.foreign)} of another version: {_some(seen.foreign)}"
        found.append(Finding("markers", "fail", said, "Use that version, or another store."))
    if seen.num_quarantined:
        said = f"{seen.num_quarantined} trials have markers in quarantine."
        todo = "Each has a .reason.txt beside it. Delete the folder when you have read them."
        found.append(Finding("quarantine", "warn", said, todo))
    said = f"{seen.num_open} attempts ({seen.open_bytes:,} bytes) are named by no marker"
    said += ": they run now, or were interrupted." if seen.num_open else "."
    return [*found, Finding("attempts", "ok", said), *_checkpoint_findings(seen)]


def look_at_lease(uri: str, name: str) -> list[Finding]:
    """Say who holds the leases of the sweeps of a name."""
    try:
        storage = Storage(uri)
        folders = [f for f in storage.names("sweeps") if f.rpartition("-")[0] == name]
        leases = [data for f in folders if (data := storage.read(f"sweeps/{f}/LEASE.json"))]
    except UserError as error:
        return [Finding("lease", "fail", str(error), "See the sentence before.")]
    if not leases:
        return [Finding("lease", "ok", "nobody runs the sweep.")]
    return [_lease_finding(data) for data in leases]


def look_at_journal(path: Path, seen: StoreSurvey) -> list[Finding]:
    """Compare a sweep's journal with the store.

    Args:
        path: The journal.
        seen: What the store holds.
    """
    if not path.exists():
        return [Finding("journal", "ok", f"{path}: none yet; 'tickets run' makes it.")]
    try:
        with open_reader(path) as reader:
            rows, life = reader.trials(), driver_life(reader.meta(), path, time.time())
    except BrokenJournalError as error:
        return [Finding("journal", "warn", str(error), "See the sentence before.")]
    except (UserError, ValueError, KeyError) as error:
        todo = "See the sentence before; the results are in the store."
        return [Finding("journal", "fail", str(error), todo)]
    done = {row.key for row in rows if row.state is TrialState.SUCCEEDED}
    behind = len(seen.committed & {row.key for row in rows} - done)
    lost = 0 if seen.num_unseen else len(done - seen.committed)
    found = [Finding("journal", "ok", f"{path}: {len(done):,} of {len(rows):,} trials succeeded.")]
    if behind:
        said = f"{behind} trials are in the store that the journal has not done."
        found.append(Finding("journal", "warn", said, "The next 'tickets run' reuses them."))
    if lost:
        said = f"{lost} trials succeeded by the journal, but the store has no whole marker of them."
        found.append(Finding("journal", "warn", said, "The next 'tickets run' runs them again."))
    running = any(row.state is TrialState.RUNNING for row in rows)
    if running and life.state != "alive":
        said = f"trials are RUNNING, but the last heartbeat is {life.heartbeat_age_s:,.0f} s old."
        todo = "If its process is gone, 'tickets run' goes on where it stopped."
        found.append(Finding("journal", "warn", said, todo))
    return [*found, *_resting_checkpoints(seen, {row.key: row.state for row in rows})]


def keys_of(path: Path) -> set[str]:
    """Return the keys of the trials in a journal; none where it cannot be read."""
    if not path.exists():
        return set()
    try:
        with open_reader(path) as reader:
            return {row.key for row in reader.trials()}
    except UserError:
        return set()


def _checkpoint_findings(seen: StoreSurvey) -> list[Finding]:
    """Say what checkpoints there are, and which of them nobody needs any more."""
    if not seen.checkpoint_bytes:
        return []
    size = sum(seen.checkpoint_bytes.values())
    said = f"{len(seen.checkpoint_bytes)} trials have one ({size:,} bytes)"
    orphans = seen.committed & seen.checkpoint_bytes.keys()
    if not orphans:
        said += ": they run now, or go on from there in the next 'tickets run'."
        return [Finding("checkpoints", "ok", said)]
    size = sum(seen.checkpoint_bytes[key] for key in orphans)
    said += f"; {len(orphans)} of these ({size:,} bytes) are committed and need none."
    todo = "The next 'tickets run' of a sweep with these trials deletes them."
    return [Finding("checkpoints", "warn", said, todo)]


def _resting_checkpoints(seen: StoreSurvey, states: Mapping[str, TrialState]) -> list[Finding]:
    """Name checkpoints that only people can give up: nobody else knows who goes on from them."""
    left = seen.checkpoint_bytes.keys() - seen.committed
    ended = {key for key in left & states.keys() if states[key].is_finished}
    todo = "The next 'tickets run' of it goes on from there; to give that up, delete the folders."
    kinds = [
        (ended, "trials that failed, were cancelled or left out", todo),
        (
            left - states.keys(),
            "no trial of this sweep",
            "If no other sweep on this store has them, delete the folders.",
        ),
    ]
    return [
        Finding(
            "checkpoints",
            "ok",
            f"{len(keys)} ({sum(seen.checkpoint_bytes[key] for key in keys):,} bytes) of {whose}: "
            f"{_some(f'results/{key}/checkpoint' for key in keys)}",
            todo,
        )
        for keys, whose, todo in kinds
        if keys
    ]


def _lease_finding(data: bytes) -> Finding:
    holder = decode_lease(data)
    if holder is None:
        todo = "If nobody runs the sweep, use 'tickets run --take-over': it watches first."
        return Finding("lease", "warn", "it cannot be read, so nobody can tell whose it is.", todo)
    if holder.has_ended:
        said = f"left by {holder.who}, which is gone."
        return Finding("lease", "ok", said, "The next 'tickets run' here takes it at once.")
    said = f"held by {holder.who}."
    todo = "If that process is gone for good, use 'tickets run --take-over': it watches first."
    return Finding("lease", "ok", said, todo)


def _some(things: Iterable[str]) -> str:
    listed = sorted(things)
    return "; ".join(listed[:_SHOWN]) + (" ..." if len(listed) > _SHOWN else "")
