"""A journal's file: whether it is whole, where it goes when it is not, and what people are told."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from search_spaces.errors import UserError

JOURNAL_SCHEMA = 1
COLUMNS = {
    "meta": "name, value",
    "trial": "key, label, kind, state, attempts, message, seconds, updated_at",
    "event": "id, at, key, kind, payload",
}
_META = ("name", "sweep_hash", "spec_yaml", "schema_version")
_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"
_COMPANIONS = ("-wal", "-shm", "-journal")  # SQLite finds them by their names


class DamagedJournalError(Exception):
    """A journal is not what was once written; the message says what is wrong, without the path."""


class BrokenJournalError(UserError):
    """The same for people, with the path: the next run rebuilds the journal."""


def require_whole_file(path: Path) -> None:
    """Look at a journal's size and header, without opening it.

    SQLite does not notice that a last page is cut: it reads the missing bytes as zeros. Where a
    transaction was changing the file, its size says nothing: SQLite takes that back.

    Raises:
        DamagedJournalError: Something is wrong.
        OSError: The file cannot be read.
    """
    wal = _beside(path, "-wal")
    has_wal = _holds_bytes(wal)
    if not path.exists():
        if has_wal:
            raise DamagedJournalError(f"the file is gone and only {wal.name} is there")
        return
    header = _header(path)
    num_bytes = path.stat().st_size
    if not num_bytes:
        raise DamagedJournalError("it is empty")
    page_bytes, is_in_change = _page_bytes(header), _holds_bytes(_beside(path, "-journal"))
    if num_bytes % page_bytes and not is_in_change:
        raise DamagedJournalError(
            f"it is cut: its {num_bytes:,} bytes are not a multiple of its pages' {page_bytes:,}"
        )
    num_pages = int.from_bytes(header[28:32])
    is_stated = header[24:28] == header[92:96]  # else an old version of SQLite wrote it
    if is_stated and not (has_wal or is_in_change) and num_pages > num_bytes // page_bytes:
        raise DamagedJournalError(
            f"it is cut: {num_bytes // page_bytes:,} of its {num_pages:,} pages are there"
        )
    if not has_wal and num_bytes == page_bytes:  # as where a process died while it began one
        raise DamagedJournalError("it holds no tables")


def reading_uri(path: Path) -> str:
    """Return the URI by which SQLite reads a journal.

    One without a write-ahead log that a process left in the middle of a transaction can be read
    only by who may put it right; there is no harm in that beside its writer.
    """
    is_plain = _header(path)[18:19] == b"\x01"
    mode = "rw" if is_plain and os.access(path, os.W_OK) else "ro"
    return f"{path.absolute().as_uri()}?mode={mode}"


def require_own(path: Path, database: sqlite3.Connection, thoroughly: bool = False) -> None:
    """Make sure that a database is a journal of this version.

    Args:
        path: Its file, named in the error.
        database: To be looked at.
        thoroughly: Read all of it.

    Raises:
        DamagedJournalError: It was one.
        UserError: It never was, or is of another version.
    """
    try:
        (_require_whole_content if thoroughly else _require_journal)(database)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _require_whole_content(database: sqlite3.Connection) -> None:
    """Read a whole journal once.

    Raises:
        DamagedJournalError: Its pages, tables or values are not those of a journal.
        UserError: It is a whole database, but not a journal of this version.
    """
    try:
        (problem,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if problem != "ok":
            raise DamagedJournalError(problem.splitlines()[-1])
        _require_journal(database)
        for table, columns in COLUMNS.items():
            database.execute(f"SELECT {columns} FROM {table} LIMIT 1").fetchone()
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
        raise DamagedJournalError(str(error)) from error


def _require_journal(database: sqlite3.Connection) -> None:
    """Make sure that a database is a journal of this version.

    Raises:
        DamagedJournalError: It was one, but lacks what each has.
        UserError: It is another program's, or of another version; it must not be moved away.
        sqlite3.Error: It cannot be read.
    """
    found = {n for (n,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not found:
        raise DamagedJournalError("it holds no tables")
    if not found & set(COLUMNS):
        raise UserError(
            f"it is a database of another program, with the tables {', '.join(sorted(found)[:3])}. "
            "Move it away yourself, and run the sweep again."
        )
    if lost := set(COLUMNS) - found:
        raise DamagedJournalError(f"its table '{min(lost)}' is missing")
    meta = dict(database.execute("SELECT name, value FROM meta"))
    if absent := [name for name in _META if name not in meta]:
        raise DamagedJournalError(f"its entry '{absent[0]}' is missing")
    if meta["schema_version"] != str(JOURNAL_SCHEMA):
        raise UserError(
            f"the journal has schema {meta['schema_version']}, but this version of bert-tickets "
            f"knows {JOURNAL_SCHEMA}. Use the version that wrote it, or move it away and run the "
            "sweep again: it is rebuilt from the store."
        )


def move_aside(path: Path) -> Path:
    """Give a damaged journal, with what SQLite keeps beside it, another name; return it."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    target = path.with_name(f"{path.name}.damaged-{stamp}")
    for ending in ("", *_COMPANIONS):
        source = _beside(path, ending)
        if source.exists():
            source.rename(_beside(target, ending))
    return target


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite, the file system and bad values raise into an error with the path.

    Raises:
        BrokenJournalError: The journal is damaged.
        UserError: It cannot be used for now.
    """
    try:
        yield
    except DamagedJournalError as error:
        raise BrokenJournalError(_told(path, str(error), _REBUILT)) from error
    except (sqlite3.Error, OSError) as error:
        kind = BrokenJournalError if _is_damage(error) else UserError
        raise kind(_told(path, str(error), _advice(error))) from error


_REBUILT = (
    "The next 'tickets run' moves it aside and rebuilds it from the store: no committed result is "
    "lost."
)


def _told(path: Path, problem: str, advice: str) -> str:
    return f"{path}: the journal cannot be used ({problem}). {advice}"


def _advice(error: Exception) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    number = getattr(error, "errno", None)
    if code == sqlite3.SQLITE_FULL or number in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full: free some space and run the same command again."
    if code == sqlite3.SQLITE_READONLY or number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "You may not write there: mend the folder's permissions or mount."
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "Another program holds it open: end that one and run the same command again."
    if _is_damage(error):
        return _REBUILT
    return (
        "Check that the folder exists, that you may use it and that its disk is sound. If nothing "
        "else helps, move the file away: the next 'tickets run' rebuilds it from the store."
    )


def _is_damage(error: Exception) -> bool:
    """Whether an error tells of the file's content, not of the disk or of somebody's lock."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python's own, as of text that is not UTF-8
        return isinstance(error, sqlite3.Error)
    damage = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
    return code & 0xFF in damage


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _holds_bytes(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)


def _page_bytes(header: bytes) -> int:
    """Return the size of a database's pages, in bytes, from its header."""
    if header[: len(_MAGIC)] != _MAGIC[: len(header)]:
        raise DamagedJournalError("it is not an SQLite database")
    if len(header) < _HEADER_BYTES:
        raise DamagedJournalError("it is cut within its header")
    page_bytes = int.from_bytes(header[16:18])
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    if page_bytes < 512 or page_bytes & (page_bytes - 1):
        raise DamagedJournalError("its header is damaged")
    return page_bytes
