"""The lease: one driver of a sweep at a time, on every machine that reaches the store."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.lease import Lease, LeaseLostError, Timing
from orchestrator.lease_record import LeaseRecord
from orchestrator.storage import Storage
from search_spaces.errors import UserError
from tests.orchestrator.leases import PATH, QUICK, elsewhere, eventually, seen, take, uri, write

__all__ = ["uri"]  # a fixture
REPOSITORY = Path(__file__).parents[2]
SLOW = Timing(heartbeat_s=60, term_s=0.5, settle_s=0.1)  # shows no life by itself


@pytest.fixture
def alive(uri: str) -> Iterator[LeaseRecord]:
    """A driver elsewhere that gives heartbeats."""
    record, over = elsewhere(term_s=60), threading.Event()
    write(uri, record)

    def live() -> None:
        following = record
        while not over.wait(0.05):
            following = following.next()
            write(uri, following)

    thread = threading.Thread(target=live)
    thread.start()
    yield record
    over.set()
    thread.join()


def test_a_lease_is_held_renewed_and_given_back(uri: str) -> None:
    """It says who holds it, its counter rises by itself, and the end leaves nothing."""
    with take(uri) as lease:
        first = seen(uri)
        assert (first.pid, first.counter) == (os.getpid(), 0)
        eventually(lambda: seen(uri).counter >= 2)
        assert seen(uri).token == first.token
        assert lease.is_current
        lease.check()
    assert Storage(uri).read(PATH) is None
    lease.close()
    take(uri).close()


def test_another_sweep_of_the_same_name_is_not_in_the_way(uri: str) -> None:
    """Name and content together make the lease."""
    other = Lease.acquire(uri, "toy", "g" * 64, timing=QUICK)
    with take(uri), other:
        assert seen(uri).token


def test_a_second_driver_is_told_who_runs_the_sweep(uri: str) -> None:
    """Host, process, user, since when, the last heartbeat, and what to do."""
    write(uri, elsewhere(counter=7))
    expected = (
        r"LEASE\.json: this sweep is being run by process 1234 on node7 since 2999-01-01T00:00:00"
        r".*user ada; heartbeat 7 at 2999.*'tickets status', or end that process first.*"
        r"--take-over to 'tickets run': that watches for 0\.5 s"
    )
    with pytest.raises(UserError, match=expected):
        take(uri)
    with take(uri + "2"), pytest.raises(UserError, match=rf"process {os.getpid()} on "):
        take(uri + "2")


def test_a_living_driver_is_not_taken_over(uri: str, alive: LeaseRecord) -> None:
    """One heartbeat is enough, and the file is left alone."""
    expected = r"--take-over is refused: this sweep is being run by process 1234.*End that process"
    with pytest.raises(UserError, match=expected):
        take(uri, take_over=True)
    assert seen(uri).token == alive.token


def test_a_silent_driver_is_taken_over_whatever_its_clock_says(uri: str) -> None:
    """Only the observer's own clock counts: the watch lasts a term; dates say nothing."""
    write(uri, elsewhere())
    said: list[str] = []
    began = time.monotonic()
    with take(uri, take_over=True, say=said.append):
        assert time.monotonic() - began >= 0.5
        assert seen(uri).pid == os.getpid()
    assert len(said) == 1 and "Watching the lease of process 1234 on node7" in said[0]


def test_the_holders_term_counts_if_it_is_longer(uri: str) -> None:
    """A driver that was started with a slower heartbeat is given its time."""
    write(uri, elsewhere(term_s=0.9))
    began = time.monotonic()
    take(uri, take_over=True).close()
    assert time.monotonic() - began >= 0.9


def test_a_lease_given_back_while_it_is_watched_is_free(uri: str) -> None:
    """Whoever waits gets it."""
    write(uri, elsewhere())
    gone = threading.Timer(0.2, lambda: Storage(uri).delete(PATH))
    gone.start()
    with take(uri, take_over=True):
        assert seen(uri).pid == os.getpid()
    gone.join()


def test_a_driver_whose_lease_was_taken_notices_at_its_next_heartbeat(uri: str) -> None:
    """It says who has the sweep now, and does not give back what is not its own."""
    lease = take(uri, timing=SLOW)
    with take(uri, take_over=True, timing=SLOW) as other:
        lease.check()
        lease.renew()
        assert not lease.is_current
        expected = rf"process \({os.getpid()} on .*has lost the sweep to process .*starts no more"
        with pytest.raises(LeaseLostError, match=expected):
            lease.check()
        lease.close()
        assert seen(uri).token == other._record.token
        other.renew()
        other.check()


def test_the_loss_is_noticed_without_being_asked(uri: str) -> None:
    """The lease's own thread finds it."""
    lease = take(uri)
    write(uri, elsewhere())
    eventually(lambda: not lease.is_current)
    with pytest.raises(LeaseLostError, match="process 1234 on node7"):
        lease.check()
    lease.close()


def test_a_lease_that_somebody_deleted_is_taken_again(uri: str) -> None:
    """Tidying up the store by hand does not end a sweep."""
    with take(uri, timing=SLOW) as lease:
        Storage(uri).delete(PATH)
        lease.renew()
        lease.check()
        assert seen(uri).counter == 1


def test_a_store_that_is_away_for_a_while_pauses_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is started when a term has passed without a heartbeat; then it goes on."""
    store, away = tmp_path / "store", tmp_path / "away"
    with take(str(store)) as lease, caplog.at_level(logging.WARNING):
        store.rename(away)
        store.write_text("a file where the store was")
        eventually(lambda: "could not be renewed for 0.5 s, so no trial" in caplog.text)
        assert not lease.is_current
        lease.check()
        store.unlink()
        away.rename(store)
        eventually(lambda: lease.is_current)


HOLD = """
import sys
from orchestrator.lease import Lease
Lease.acquire(sys.argv[1], "toy", "h" * 64)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_driver_of_this_machine_that_was_killed_is_replaced_at_once(tmp_path: Path) -> None:
    """No flag and no waiting: its process is gone, also while it is a zombie."""
    uri = str(tmp_path / "store")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, uri],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        with pytest.raises(UserError, match=f"process {process.pid} on "):
            take(uri)
    finally:
        process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    take(uri).close()
    process.communicate()


def test_a_process_number_given_anew_is_another_process(uri: str) -> None:
    """A lease of an earlier process with this one's number is over."""
    write(uri, LeaseRecord.new(term_s=60).model_copy(update={"pid_started": "1"}))
    take(uri).close()


def test_of_two_take_overs_at_once_one_stays(uri: str) -> None:
    """The other is told by whom the sweep was taken."""
    write(uri, elsewhere())
    patient = Timing(heartbeat_s=60, term_s=0.5, settle_s=2)
    leases, errors = [], []

    def race() -> None:
        try:
            leases.append(take(uri, take_over=True, timing=patient))
        except UserError as error:
            errors.append(str(error))

    racers = [threading.Thread(target=race) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(leases) == 1 and len(errors) == 1, errors
    assert "at the same moment" in errors[0] or "is refused" in errors[0]
    leases[0].renew()
    leases[0].check()
    leases[0].close()
