"""Damaged journals: found, told, moved aside and rebuilt; never silently begun anew."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.journal import Journal
from orchestrator.journal_file import (
    BrokenJournalError,
    DamagedJournalError,
    explained,
    require_whole_file,
)
from orchestrator.store import Store
from search_spaces.errors import UserError
from tests.orchestrator.journals import GRAPH, LINEAGE, SWEEP, alter, asides, live, path, store

__all__ = ["path", "store"]  # fixtures


def assert_rebuilt(
    path: Path, store: Store, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader is told; a writer moves the file aside, says so, and has all that is committed."""
    before = path.read_bytes()
    with pytest.raises(UserError, match=rf"toy\.sqlite: the journal cannot be used \({problem}"):
        reader = Journal.read_only(path)
        reader.trials()
        reader.events()
    assert path.read_bytes() == before and not asides(path)
    with caplog.at_level(logging.WARNING), Journal.open(path, SWEEP, now=9.0) as journal:
        (aside,) = asides(path)
        assert aside.read_bytes() == before
        assert f"It is now {aside}, and a new one is built from the store" in caplog.text
        (event,) = journal.events()
        assert (event.kind, event.payload["moved_to"]) == ("rebuilt", str(aside))
        committed = journal.rebuild(GRAPH, store, now=9.0)
        assert list(committed) == [trial.key for trial in LINEAGE[:2]]
        assert [row.state.value for row in journal.trials()] == ["SUCCEEDED"] * 2 + ["PENDING"]


def overwrite(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "it is empty"),
    "text": (lambda p: p.write_bytes(b"no database at all" * 100), "it is not an SQLite database"),
    "header": (lambda p: p.write_bytes(p.read_bytes()[:60]), "it is cut within its header"),
    "page size": (lambda p: overwrite(p, 16, b"\x00\x03"), "its header is damaged"),
    "page gone": (
        lambda p: p.write_bytes(p.read_bytes()[:-4096]),
        r"it is cut: \d+ of its \d+ pages",
    ),
    "no tables": (
        lambda p: alter(p, "DROP TABLE meta", "DROP TABLE trial", "DROP TABLE event"),
        "it holds no tables",
    ),
    "table gone": (lambda p: alter(p, "DROP TABLE event"), "its table 'event' is missing"),
    "no schema": (
        lambda p: alter(p, "DELETE FROM meta WHERE name = 'schema_version'"),
        "its entry 'schema_version' is missing",
    ),
    "only begun": (
        lambda p: p.write_bytes(p.read_bytes()[:28] + b"\0\0\0\1" + p.read_bytes()[32:4096]),
        "it holds no tables",
    ),
    "payload": (
        lambda p: alter(p, "UPDATE event SET payload = '[half'"),
        "a row cannot be read: ",
    ),
    "number": (
        lambda p: alter(p, "UPDATE trial SET attempts = 9e999"),
        "a row cannot be read: cannot convert float infinity",
    ),
    "state": (
        lambda p: alter(p, "UPDATE trial SET state = 'ASLEEP'"),
        "a row cannot be read: 'ASLEEP'",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_journal_is_moved_aside_and_rebuilt(
    path: Path, store: Store, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Whatever happened to it, it is told, kept under a new name, and nothing runs twice."""
    damage, problem = DAMAGES[name]
    damage(path)
    assert_rebuilt(path, store, problem, caplog)


def test_zeros_in_the_middle_are_found_by_the_writer(
    path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A page that a disk lost is found when the journal is opened for writing."""
    overwrite(path, 4096, b"\0" * 4096)
    with caplog.at_level(logging.WARNING), Journal.open(path, SWEEP, now=9.0) as journal:
        assert len(asides(path)) == 1
        assert len(journal.rebuild(GRAPH, store, now=9.0)) == 2


def test_a_cut_last_page_is_found_at_every_byte(path: Path) -> None:
    """SQLite would read the lost bytes as zeros and notice nothing."""
    whole = path.read_bytes()
    require_whole_file(path)
    for num_bytes in range(len(whole) - 4096, len(whole)):
        path.write_bytes(whole[:num_bytes])
        with pytest.raises(DamagedJournalError, match="it is cut"):
            require_whole_file(path)


@pytest.mark.parametrize("lost_bytes", [1, 100, 2048, 4095, 4096])
def test_a_cut_last_page_is_rebuilt(
    path: Path, store: Store, caplog: pytest.LogCaptureFixture, lost_bytes: int
) -> None:
    """What the check above finds is what opening goes by."""
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    assert_rebuilt(path, store, "it is cut", caplog)


def test_a_wal_cut_at_every_byte_is_a_journal_of_an_earlier_moment(
    tmp_path: Path, store: Store
) -> None:
    """Opening it fails nowhere; after the rebuild it says what the store says."""
    path, copy = tmp_path / "toy.sqlite", tmp_path / "copy" / "toy.sqlite"
    journal = Journal.open(path, SWEEP, now=1.0)
    journal.close()
    journal = Journal.open(path, SWEEP, now=1.0)
    live(journal, store)
    main, wal = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    kinds = [event.kind for event in journal.events()]
    journal.close()
    copy.parent.mkdir()
    seen = set()
    for num_bytes in [*range(0, len(wal), 509), *range(len(wal) - 40, len(wal) + 1)]:
        shutil.rmtree(copy.parent)
        copy.parent.mkdir()
        copy.write_bytes(main)
        Path(f"{copy}-wal").write_bytes(wal[:num_bytes])
        with Journal.open(copy, SWEEP, now=9.0) as journal:
            assert not asides(copy)
            found = [event.kind for event in journal.events() if event.kind != "interrupted"]
            assert found == kinds[: len(found)]
            seen.add(len(found))
            journal.rebuild(GRAPH, store, now=9.0)
            assert [row.state.value for row in journal.trials()] == ["SUCCEEDED"] * 2 + ["PENDING"]
    assert seen >= {0, 2, len(kinds)}  # the two reused trials are one transaction


def test_a_run_that_was_killed_while_it_began_the_journal_is_no_obstacle(
    path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite's rollback journal beside a first page: readers could not even open that."""
    DAMAGES["only begun"][0](path)
    Path(f"{path}-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\0" * 504)
    assert_rebuilt(path, store, "it holds no tables", caplog)
    assert not Path(f"{path}-journal").exists()


def test_a_wal_without_its_file_is_kept(
    path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite would delete it with what it holds."""
    path.unlink()
    Path(f"{path}-wal").write_bytes(b"the last transactions")
    with caplog.at_level(logging.WARNING), Journal.open(path, SWEEP, now=9.0) as journal:
        assert "the file is gone and only toy.sqlite-wal is there" in caplog.text
        assert journal.events()[0].kind == "rebuilt"
    (aside,) = path.parent.glob("toy.sqlite.damaged-*-wal")
    assert aside.read_bytes() == b"the last transactions"


@pytest.mark.parametrize(
    ("code", "is_broken", "advice"),
    [
        (sqlite3.SQLITE_FULL, False, "free some space"),
        (sqlite3.SQLITE_READONLY_ROLLBACK, False, "You may not write there"),
        (sqlite3.SQLITE_BUSY_RECOVERY, False, "Another program holds it open"),
        (sqlite3.SQLITE_IOERR_READ, False, "that its disk is sound.*move the file away"),
        (sqlite3.SQLITE_CORRUPT, True, "The next 'tickets run' moves it aside"),
    ],
)
def test_each_trouble_names_its_next_step(
    tmp_path: Path, code: int, is_broken: bool, advice: str
) -> None:
    """Only what is damaged is called broken: nothing else may ever be moved aside."""
    error = sqlite3.OperationalError("it does not work")
    error.sqlite_errorcode = code
    with pytest.raises(UserError, match=advice) as told, explained(tmp_path / "toy.sqlite"):
        raise error
    assert isinstance(told.value, BrokenJournalError) is is_broken


def test_what_is_whole_is_not_moved(path: Path) -> None:
    """Another program's database and a newer version's journal are refused and left alone."""
    alter(path, "UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    other = path.with_name("other.sqlite")
    alter(other, "CREATE TABLE songs (title TEXT)")
    for file, problem in (
        (path, r"toy\.sqlite: the journal has schema 99, but this version .* knows 1\. .*rebuilt"),
        (other, r"other\.sqlite: it is a database of another program, with the tables songs"),
    ):
        before = file.read_bytes()
        for use in (Journal.read_only, lambda p: Journal.open(p, SWEEP, now=1.0)):
            with pytest.raises(UserError, match=problem):
                use(file)
        assert file.read_bytes() == before and not asides(file)
