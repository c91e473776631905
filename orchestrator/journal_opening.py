"""Opening a journal for writing: an old one if it is whole, else a new one in its place."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from orchestrator.disks import network_file_system
from orchestrator.journal_file import (
    BrokenJournalError,
    DamagedJournalError,
    move_aside,
    reading_uri,
    require_own,
    require_whole_file,
)
from orchestrator.journal_reader import JournalReader

_PATIENCE_S = 60.0  # a reader of 100,000 trials over a slow network is no reason to end a sweep
_log = logging.getLogger(__name__)
_TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE trial (key TEXT PRIMARY KEY, label TEXT NOT NULL, kind TEXT NOT NULL, "
    "state TEXT NOT NULL, attempts INTEGER NOT NULL, message TEXT NOT NULL, seconds REAL, "
    "updated_at REAL NOT NULL)",
    "CREATE TABLE event (id INTEGER PRIMARY KEY, at REAL NOT NULL, key TEXT NOT NULL, "
    "kind TEXT NOT NULL, payload TEXT NOT NULL)",
)


def open_database(path: Path) -> tuple[sqlite3.Connection, dict[str, str]]:
    """Open a journal's database, a new one in place of none or of a damaged one.

    The tables of a new one are written by the transaction that comes next.

    Returns:
        The database; what was wrong and where the damaged one is now, or nothing.

    Raises:
        UserError: The file is another program's, or of another version.
        sqlite3.Error: It cannot be used for now.
        OSError: The same.
    """
    mishap: dict[str, str] = {}
    try:
        require_whole_file(path)
        if path.exists():
            _examine(path)
            return _connected(path), mishap
    except DamagedJournalError as error:
        mishap = {"problem": str(error), "moved_to": str(move_aside(path))}
        _log.warning(
            "%s: the journal is damaged (%s). It is now %s, and a new one is built from the "
            "store: no committed result is lost, only numbers of attempts, past events, and what "
            "was paused or cancelled.",
            path,
            error,
            mishap["moved_to"],
        )
    database = _connected(path)
    database.execute("BEGIN")
    for statement in _TABLES:
        database.execute(statement)
    return database, mishap


def _examine(path: Path) -> None:
    """Read a whole journal; what may be another program's stays as SQLite would leave it.

    What any reader would stumble over is found here: nothing else ever moves a journal aside.
    """
    database = sqlite3.connect(reading_uri(path), uri=True)
    try:
        require_own(path, database, thoroughly=True)
        JournalReader(path, database).require_readable()
    except BrokenJournalError as error:
        raise DamagedJournalError(str(error.__cause__)) from error
    finally:
        database.close()


def _connected(path: Path) -> sqlite3.Connection:
    """Open a database for writing.

    A write-ahead log needs memory that its readers share, which no two machines do: readers on
    another one would see pages of several moments. There SQLite's older way is right, in which
    the writer waits for whoever reads.
    """
    mode = "TRUNCATE" if network_file_system(path) else "WAL"
    database = sqlite3.connect(path, timeout=_PATIENCE_S)
    database.execute(f"PRAGMA journal_mode = {mode}")
    database.execute("PRAGMA synchronous = FULL")
    return database
