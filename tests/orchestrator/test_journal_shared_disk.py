"""A journal on a network file system: no write-ahead log, and yet nothing told is lost.

The mount is faked; SQLite, files and kills are real.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from orchestrator.disks import network_file_system
from orchestrator.doctor import look_at_journals
from orchestrator.journal import Journal, Transition
from orchestrator.store import Store
from search_spaces.contracts import TrialState
from search_spaces.errors import UserError
from tests.orchestrator.journals import LINEAGE, SWEEP, asides, live, store

__all__ = ["store"]  # fixture

REPOSITORY = Path(__file__).parents[2]
KEY = LINEAGE[2].key

# Writes transitions for ever and says so after each; with a file's name, dies within one.
WRITER = """
import os, signal, sys
import orchestrator.journal_opening as opening
opening.network_file_system = lambda path: "nfs4"
from orchestrator.journal import Journal, SweepInfo, Transition
from search_spaces.contracts import TrialState
path, key, dies = sys.argv[1], sys.argv[2], sys.argv[3] == "dies"
journal = Journal.open(path, SweepInfo("toy", "h1", ""), now=1.0)
changes = [Transition(key, TrialState.RUNNING, "started", "x" * 4000)]
if dies:
    journal._database.execute("PRAGMA cache_size = 1")  # so that pages reach the file at once
    with journal._transaction():
        for number in range(200):
            journal._change(Transition(key, TrialState.FAILED, "failed", "y" * 9000,
                payload={"z": "z" * 9000}), 5.0)
        os.kill(os.getpid(), signal.SIGKILL)
number = 0
while True:
    journal.record(changes, now=2.0)
    number += 1
    print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole journal, closed, on what is said to be NFS."""
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: _mounted(*mounts))
    path = tmp_path / "toy.sqlite"
    with Journal.open(path, SWEEP, now=1.0) as journal:
        live(journal, store)
    return path


def _mounted(*mounts: tuple[str, str]) -> list[SimpleNamespace]:
    return [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts]


def start(path: Path, *, dies: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), KEY, "dies" if dies else "lives"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_there_is_no_write_ahead_log(path: Path) -> None:
    """No file beside the journal that two machines would have to share; readers see each write."""
    with Journal.open(path, SWEEP, now=5.0) as journal:
        with Journal.read_only(path) as reader:
            assert reader.counts()[TrialState.SUCCEEDED] == 2
            journal.record([Transition(KEY, TrialState.RUNNING, "started")], now=6.0)
            assert reader.counts()[TrialState.RUNNING] == 1
        found = {one.name for one in path.parent.glob("toy.sqlite*")}
        assert found <= {"toy.sqlite", "toy.sqlite.lock", "toy.sqlite-journal"}
        assert path.read_bytes()[18:20] == b"\1\1"


def test_a_journal_that_moves_to_another_disk_changes_its_way(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: _mounted(("/", "ext4")))
    with Journal.open(path, SWEEP, now=5.0) as journal:
        assert path.read_bytes()[18:20] == b"\2\2"
        before = journal.events()
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: _mounted(("/", "nfs")))
    with Journal.open(path, SWEEP, now=5.0) as journal:
        assert path.read_bytes()[18:20] == b"\1\1"
        assert journal.events()[: len(before)] == before


def test_a_process_that_died_within_a_transaction_leaves_what_was_before(path: Path) -> None:
    """Half of the transaction is in the file: readers and the next writer take it back."""
    with Journal.read_only(path) as reader:
        before = reader.trials(), reader.events()
    process = start(path, dies=True)
    assert process.wait(60) == -9
    process.communicate()
    half, undo = path.read_bytes(), path.with_name("toy.sqlite-journal").read_bytes()
    assert undo and len(half) > 4096 * 100, "the test leaves a hot journal"
    with Journal.read_only(path) as reader:
        assert (reader.trials(), reader.events()) == before
    path.write_bytes(half)
    path.with_name("toy.sqlite-journal").write_bytes(undo)
    with Journal.open(path, SWEEP, now=9.0) as journal:
        assert (journal.trials(), journal.events()) == before
    assert not asides(path), "nothing is damaged, so nothing is moved aside"


def test_who_may_not_write_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(path, dies=True)
    assert process.wait(60) == -9
    process.communicate()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=r"toy\.sqlite: the journal cannot be used .* You may not"):
        Journal.read_only(path)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_was_told_outlives_a_kill(path: Path, seed: int) -> None:
    """Killed at random moments, again and again: all acknowledged transitions are there."""
    draws, told = random.Random(seed), 0
    before = _num_started(path)
    for _ in range(3):
        process = start(path, dies=False)
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        time.sleep(draws.uniform(0.0, 0.3))
        process.kill()
        rest, _ = process.communicate()
        told += int((rest.split() or ["1"])[-1])
        found = _num_started(path) - before
        assert told <= found <= told + 1
        told = found  # one that was written may not have been told any more
    assert not asides(path)


def _num_started(path: Path) -> int:
    with Journal.read_only(path) as reader:
        return len(reader.events_of("started"))


def test_a_reader_holds_up_a_writer_only_for_a_while(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a write-ahead log the writer waits for readers, but not for ever."""
    monkeypatch.setattr("orchestrator.journal_opening._PATIENCE_S", 1.0)
    with Journal.open(path, SWEEP, now=5.0) as journal:
        reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM trial").fetchone()
        timer = time.monotonic()
        with pytest.raises(UserError, match="Another program holds it open"):
            journal.record([Transition(KEY, TrialState.RUNNING, "started")], now=6.0)
        assert time.monotonic() - timer >= 1.0
        reader.close()
        journal.record([Transition(KEY, TrialState.RUNNING, "started")], now=6.0)


def test_kinds_of_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deepest mount counts, of two on one place the later; none where nothing is known."""
    mounts = [
        ("/", "ext4"),
        ("/home", "autofs"),
        ("/home", "nfs4"),
        ("/home/me/disk", "xfs"),
        ("/mnt/keys", "fuse.sshfs"),
        ("/homely", "lustre"),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: _mounted(*mounts))
    kinds = ["/home/me", "/home/me/disk/a/b", "/homely/x", "/mnt/keys", "/tmp", "/homes"]
    found = [network_file_system(Path(place)) for place in kinds]
    assert found == ["nfs4", "", "lustre", "fuse.sshfs", "", ""]

    def fail(all: bool) -> None:
        raise PermissionError

    monkeypatch.setattr(psutil, "disk_partitions", fail)
    assert network_file_system(Path("/home/me")) == ""


def test_doctor_says_it(path: Path) -> None:
    found = look_at_journals(path.parent)
    assert found.said.endswith(
        "It is on nfs4: journals are written without a write-ahead log there."
    )
    assert found.level != "fail"
