"""A disk that is full or read-only: one sentence, nothing half-published, and on it goes after."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.doctor import look_at_folder
from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, SweepInfo, Transition
from orchestrator.lease import Lease, Timing
from orchestrator.storage import Storage
from orchestrator.store import Store
from search_spaces.contracts import TrialState
from search_spaces.errors import UserError
from tests.orchestrator.factories import finish, make_lineage, make_result, make_trial
from tests.orchestrator.world import World

SWEEP = SweepInfo(name="toy", sweep_hash="h1", spec_yaml="")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 512 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if not shutil.which("mount"):
        pytest.skip("there is no mount command here")
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing more fits; return the file to delete."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for num_bytes in (4096, 1):
            while True:
                try:
                    file.write(b"x" * num_bytes)
                except OSError:
                    break
    return filler


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def test_a_full_store_publishes_nothing(disk: Path) -> None:
    """The sentence says that it is full; with space again the same result is committed."""
    trial, store = make_trial(prunes=(100,)), Store(str(disk / "store"))
    result = finish(store.uri, trial, "a1")
    filler = fill(disk)
    with pytest.raises(UserError, match=r"cannot be written: .*The place is full: free some space"):
        store.commit(result, trial.spec)
    assert store.read(trial.key) is None
    assert Storage(store.uri).names(f"results/{trial.key}") == ["attempts"]
    filler.unlink()
    assert store.commit(result, trial.spec)
    assert store.read(trial.key) == result


def test_a_full_journal_keeps_what_it_has(disk: Path, tmp_path: Path) -> None:
    """A change that does not fit is not half there; with space again it is written."""
    trial, store = make_trial(), Store(str(tmp_path / "store"))
    started = Transition(trial.key, TrialState.RUNNING, "started", payload={"x": "y" * 9000})
    with Journal.open(disk / "toy.sqlite", SWEEP, now=1.0) as journal:
        journal.rebuild(TrialGraph([trial]), store, now=1.0)
        filler = fill(disk)
        with pytest.raises(UserError, match=r"toy\.sqlite: .*The disk is full: free some space"):
            for _ in range(100):
                journal.record([started], now=2.0)
        num_events = len(journal.events())
        assert journal.num_attempts(trial.key) == num_events
        filler.unlink()
        journal.record([started], now=3.0)
        assert journal.num_attempts(trial.key) == len(journal.events()) == num_events + 1


def test_a_read_only_place_is_said_to_be_one(disk: Path) -> None:
    """Store, journal and lease name the place; what is there can still be read."""
    trial, other = make_trial(seed=1), make_trial(seed=2)
    store = Store(str(disk / "store"))
    store.commit(finish(store.uri, trial, "a1"), trial.spec)
    Journal.open(disk / "toy.sqlite", SWEEP, now=1.0).close()
    make_read_only(disk)
    not_allowed = r"disk/store cannot be written: .*You may not write there"
    with pytest.raises(UserError, match=not_allowed):
        store.check_writable()
    with pytest.raises(UserError, match=not_allowed):
        store.commit(make_result(other, "a1"), other.spec)
    with pytest.raises(UserError, match=not_allowed):
        Lease.acquire(store.uri, "toy", "h", timing=Timing(settle_s=0))
    with pytest.raises(UserError, match=r"toy\.sqlite: .*You may not write there"):
        Journal.open(disk / "toy.sqlite", SWEEP, now=2.0)
    assert store.read(trial.key) is not None
    assert look_at_folder("store", disk).level == "fail"


def test_a_sweep_whose_journals_disk_fills_ends_and_goes_on_later(
    disk: Path, tmp_path: Path
) -> None:
    """It ends with the sentence and its executor closed; then nothing committed runs again."""
    trials, world = make_lineage(num_rounds=4), World(tmp_path)
    world.journal_path = disk / "journal.db"
    fillers: list[Path] = []

    def fill_after_one() -> None:
        if world.store.trial_keys() and not fillers:
            fillers.append(fill(disk))

    with pytest.raises(UserError, match=r"journal\.db: .*The disk is full: free some space"):
        world.run(trials, check=fill_after_one)
    assert world.executor.num_closes == 1
    done = set(world.store.trial_keys())
    assert 1 <= len(done) < len(trials)
    fillers[0].unlink()
    assert world.run(trials).succeeded
    assert not done.intersection(world.submitted)
    assert {row.state for row in world.rows().values()} == {TrialState.SUCCEEDED}
