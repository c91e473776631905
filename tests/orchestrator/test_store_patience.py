"""A store that is away for a moment ends no sweep: nothing is lost, nothing runs twice."""

from __future__ import annotations

import errno
import itertools
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import cli
from orchestrator.driver_life import away_line, describe_away
from orchestrator.inbox import Command, Inbox
from orchestrator.journal import Journal
from orchestrator.policies import Skip
from orchestrator.retries import RetryRules
from orchestrator.store import Store
from orchestrator.store_patience import StorePatience, at_the_end
from orchestrator.watch import Watcher
from search_spaces.contracts import TrialState
from search_spaces.errors import StoreAwayError, StoreLostError, UserError
from tests.orchestrator.dags import dags
from tests.orchestrator.factories import make_dag, make_lineage, make_trial
from tests.orchestrator.simulated import FakeClock
from tests.orchestrator.weather import Weather, break_storage, drive
from tests.orchestrator.world import World, assert_journal_agrees


@pytest.fixture
def weather(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make every look at the store fail while the weather is bad."""

    def rule(clock: FakeClock, away: Any) -> Weather:
        found = Weather(clock, away)
        break_storage(monkeypatch, found)
        return found

    yield rule


def test_an_outage_is_waited_for_and_told_once(tmp_path: Path, weather: Any) -> None:
    """Running attempts end meanwhile; each trial runs once, and in the order of its parents."""
    world, clock, trials = World(tmp_path), FakeClock(), make_lineage(num_rounds=4)
    bad = weather(clock, lambda now: 1001 <= now < 1100)
    assert drive(world, trials, clock).succeeded
    assert bad.num_refused > 1
    assert world.submitted == [trial.key for trial in trials]
    assert len(world.diary.said) == 2
    first, last = world.diary.said
    assert first.startswith(f"The store {world.store.uri} cannot be ")
    assert first.endswith("committed once the store answers. It is waited for 600 s.")
    assert last.startswith("The store answers again after 1")
    assert_journal_agrees(world, trials)


@settings(max_examples=10, deadline=None)
@given(dags(max_size=6), st.integers(1, 3), st.integers(0, 2**16))
def test_no_weather_makes_a_trial_run_twice(choices: Any, num_slots: int, seed: int) -> None:
    """Whatever call of the store fails, and however often, as long as it is not for too long."""
    trials, clock = make_dag(choices), FakeClock()
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        world = World(folder)
        bad = Weather(clock, lambda now: now > 1000 and rng.random() < 0.05)
        break_storage(patch, bad)
        outcome = drive(world, trials, clock, RetryRules(store_s=1e9), num_slots=num_slots)
        bad.away = lambda now: False
        assert outcome.succeeded
        assert sorted(world.submitted) == sorted({trial.key for trial in trials})
        assert sorted(world.diary.of("succeeded")) == sorted(world.submitted)
        done = [event.kind for event in world.events()]
        assert done.count("succeeded") == done.count("started") == len(world.submitted)
        assert_journal_agrees(world, trials)


def test_an_outage_that_lasts_ends_the_sweep_and_it_goes_on_later(
    tmp_path: Path, weather: Any
) -> None:
    world, clock, trials = World(tmp_path), FakeClock(), make_lineage(num_rounds=3)
    bad = weather(clock, lambda now: now >= 1001)
    with pytest.raises(StoreLostError) as raised:
        drive(world, trials, clock, RetryRules(store_s=50))
    assert 1051 <= clock.now < 1060
    assert str(raised.value).endswith(
        "Check that the place exists, that this machine reaches it and that you may write there, "
        "or name another one under 'store'. It has not answered for 50 s (retries.store_s). What "
        "is committed is safe: run the same command again once the store answers."
    )
    assert world.executor.num_closes == 1
    bad.away = lambda now: False
    assert drive(world, trials, clock).succeeded


def test_a_lost_store_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever supervises the command may repeat it, as after no other fault of this kind."""

    def lost(**_: object) -> None:
        raise StoreLostError("It has not answered for 600 s.")

    monkeypatch.setattr(cli, "app", lost)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 75
    assert capsys.readouterr().err == "It has not answered for 600 s.\n"


def test_a_command_that_begins_without_its_store_ends_at_once(
    tmp_path: Path,
    weather: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one sentence, and so that it is repeated by whoever supervises it."""
    store = Store(str(tmp_path / "store"))
    weather(FakeClock(), lambda now: True)
    monkeypatch.setattr(cli, "app", lambda **_: store.check_writable())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 75
    assert capsys.readouterr().err.startswith(f"The store {store.uri} cannot be written: ")


def test_the_end_of_a_run_waits_too(tmp_path: Path, weather: Any) -> None:
    """Verdicts and report need the store after the last trial has ended."""
    clock, said, trial = FakeClock(), [], make_trial()
    store = Store(str(tmp_path / "store"))
    bad = weather(clock, lambda now: now < 1050)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    def look() -> str:
        return str(store.read(trial.key))

    assert at_the_end(look, said.append, 600, clock, sleep) == "None"
    assert 1050 <= clock.now < 1090 and bad.num_refused < 10
    first, last = said
    assert first.endswith(
        "All trials have ended; what is left of the run follows once the store answers. It is "
        "waited for 600 s."
    )
    assert last.startswith("The store answers again after ")
    bad.away = lambda now: True
    with pytest.raises(StoreLostError, match="has not answered for 20 s"):
        at_the_end(look, said.append, 20, clock, sleep)


def test_no_patience_is_none(tmp_path: Path, weather: Any) -> None:
    world, clock = World(tmp_path), FakeClock()
    weather(clock, lambda now: now > 1000)
    with pytest.raises(StoreLostError, match="has not answered for 0 s"):
        drive(world, make_lineage(num_rounds=2), clock, RetryRules(store_s=0))
    assert world.diary.said == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_what_does_not_pass_ends_the_sweep_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Full, forbidden and read-only places: somebody has to do something."""
    world, clock = World(tmp_path), FakeClock()

    def refuse(self: Store, *_: Any) -> bool:
        with self._storage._explained("written"):
            raise OSError(number, "no")

    monkeypatch.setattr(Store, "commit", refuse)
    with pytest.raises(UserError, match=r"free some space|mend its permissions"):
        drive(world, make_lineage(num_rounds=2), clock)
    assert clock.now < 1010
    assert world.diary.said == []


def test_a_trial_cancelled_while_its_result_waits_stays_cancelled(
    tmp_path: Path, weather: Any
) -> None:
    """An attempt that was given up is refused also where its answer came before that."""
    world, clock, trial = World(tmp_path), FakeClock(), make_trial(prunes=(100,))
    bad = weather(clock, lambda now: now > 1000)
    inbox = Inbox(world.journal_path)

    def cancel_later() -> None:
        if clock.now > 1010 and not sent:
            sent.append(Command.new("cancel", (trial.key,)))
            inbox.put(sent[0])

    sent: list[Command] = []
    outcome = drive(world, [trial], clock, check=cancel_later)
    assert outcome.counts[TrialState.CANCELLED] == 1
    bad.away = lambda now: False
    assert world.store.read(trial.key) is None


def test_ctrl_c_while_the_store_is_away_says_what_is_lost(tmp_path: Path, weather: Any) -> None:
    world, clock, trials = World(tmp_path), FakeClock(), make_lineage(num_rounds=2)
    bad = weather(clock, lambda now: now > 1000)

    def stop() -> None:
        if clock.now > 1010:
            raise KeyboardInterrupt

    assert drive(world, trials, clock, check=stop).cancelled
    assert world.diary.said[-1].endswith(
        "What could not be committed is run again by the next run."
    )
    bad.away = lambda now: False
    assert drive(world, trials, clock).succeeded


class Reading:
    """A policy that reads the store, as stop-at-failure does, and then skips the last trial."""

    def __init__(self, store: Store, first: str, last: str) -> None:
        self._store, self._first, self._last = store, first, last

    def heeds(self, key: str) -> bool:
        return key == self._first

    def on_result(self, graph: Any, scheduler: Any, trial: Any, result: Any) -> list[Skip]:
        if trial.key != self._first:
            return []
        assert self._store.read(self._first) is not None
        return [Skip(self._last, "enough")]


def test_a_policy_that_could_not_read_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything else starts: else what it leaves out would run."""
    world, clock, trials = World(tmp_path), FakeClock(), make_lineage(num_rounds=3)
    policy, whole, failing = Reading(world.store, trials[0].key, trials[2].key), Store.read, [3]

    def read(self: Store, key: str) -> Any:
        if failing[0] and world.diary.of("succeeded"):
            failing[0] -= 1
            raise StoreAwayError("away.")
        return whole(self, key)

    monkeypatch.setattr(Store, "read", read)
    outcome = drive(world, trials, clock, policy=policy)
    assert outcome.succeeded
    assert outcome.counts[TrialState.SKIPPED] == 1
    assert world.submitted == [trial.key for trial in trials[:2]]


def test_status_and_watch_tell_of_it(tmp_path: Path, weather: Any) -> None:
    world, clock, trials = World(tmp_path), FakeClock(), make_lineage(num_rounds=3)
    weather(clock, lambda now: 1001 <= now < 1040)
    seen: list[tuple[float | None, str]] = []

    def look() -> None:
        with Journal.read_only(world.journal_path) as reader:
            frame = Watcher(reader).look(clock.now)
            line = away_line(reader.meta(), world.journal_path, clock.now)
            seen.append((frame.store_away_s, line))

    assert drive(world, trials, clock, check=look).succeeded
    away = [(age, line) for age, line in seen if age is not None]
    assert max(age for age, _ in away) > 20
    assert all(line == describe_away(age) for age, line in away)
    assert describe_away(42.4) == (
        "The store has not answered for 42 s: results wait for it, and nothing new starts until "
        "it does."
    )
    with Journal.read_only(world.journal_path) as reader:
        assert Watcher(reader).look(clock.now).store_away_s is None


def test_rounds_and_pauses() -> None:
    """Tries are spaced; a good part of a round does not count as an answer, a good round does."""
    clock, said = FakeClock(), []
    patience, tries = StorePatience(clock, said.append, 1000.0), []

    def fail() -> None:
        tries.append(clock.now)
        raise StoreAwayError("away.")

    while len(tries) < 7:
        patience.begin_round()
        patience.ask(lambda: None)
        patience.ask(fail)
        patience.ask(lambda: pytest.fail("left alone after a failure"))
        patience.end_round()
        clock.now += 0.5
    assert [b - a for a, b in itertools.pairwise(tries)] == [1, 2, 4, 8, 16, 30]
    assert patience.wait_s(0.5, 0.0) == 0.5  # else a retry that is due would spin
    clock.now += 30
    patience.begin_round()
    patience.end_round()
    assert patience.away_since is None
    assert len(said) == 2
