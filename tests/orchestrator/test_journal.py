"""The journal: what the orchestrator remembers."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, SweepInfo, Transition
from orchestrator.journal_lock import has_ended
from orchestrator.store import Store
from orchestrator.trial_log import trial_log
from search_spaces.contracts import TrialState
from search_spaces.errors import UserError
from tests.orchestrator.factories import finish, make_lineage, make_trial

SWEEP = SweepInfo(name="toy", sweep_hash="h1", spec_yaml="name: toy\n")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "toy" / "journal.db"


def test_states_and_events_are_written_together(path, store):
    """Every change is a row's new state and an event, in the order in which it happened."""
    lineage = make_lineage(num_rounds=2)
    first, second = (trial.key for trial in lineage)
    with Journal.open(path, SWEEP, now=1.0) as journal:
        journal.rebuild(TrialGraph(lineage), store, now=2.0)
        started = Transition(first, TrialState.RUNNING, "started", payload={"attempt": "a1"})
        journal.record([started], now=3.0)
        journal.record(
            [
                Transition(first, TrialState.FAILED, "failed", message="broke"),
                Transition(second, TrialState.BLOCKED, "blocked", message="broke"),
            ],
            now=4.0,
        )
        assert [(e.at, e.key, e.kind) for e in journal.events()] == [
            (3.0, first, "started"),
            (4.0, first, "failed"),
            (4.0, second, "blocked"),
        ]
        assert journal.events()[0].payload == {"attempt": "a1"}
        assert [e.kind for e in journal.events(after_id=2)] == ["blocked"]
        rows = journal.trials()
        assert [(r.label, r.kind, r.state, r.attempts, r.message) for r in rows] == [
            ("round:toy:imp:r0:s0", "round", TrialState.FAILED, 1, "broke"),
            ("round:toy:imp:r1:0.1:s0", "round", TrialState.BLOCKED, 0, "broke"),
        ]
        assert journal.num_attempts(first) == 1
        assert journal.num_attempts("unknown") == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"resumed_at_step": 7}, "training went on from the checkpoint after step 7"),
        ({"restart_reason": "it is damaged"}, "training began anew: it is damaged"),
    ],
)
def test_how_an_attempt_began_is_written_down(path, store, changes, said):
    """A result's checkpoint is told of in the trial's log; of most there is nothing to tell."""
    trial = make_trial()
    result = finish(store.uri, trial, "a1").model_copy(update=changes)
    with Journal.open(path, SWEEP, now=1.0) as journal:
        journal.rebuild(TrialGraph([trial]), store, now=2.0)
        journal.record([Transition.done(trial.key, "succeeded", result)], now=3.0)
        (row,) = journal.trials()
        log = trial_log(journal, row)
    assert [(event.kind, event.text) for event in log.events] == [("succeeded", said)]


def test_a_failing_write_leaves_nothing_behind(path, store):
    """Transitions that are written together are all there or none."""
    trial = make_trial()
    with Journal.open(path, SWEEP, now=1.0) as journal:
        journal.rebuild(TrialGraph([trial]), store, now=1.0)
        good = Transition(trial.key, TrialState.RUNNING, "started")
        with pytest.raises(TypeError, match="not JSON serializable"):
            journal.record([good, replace(good, payload={"x": object()})], now=2.0)
        assert journal.counts()[TrialState.PENDING] == 1
        assert journal.events() == []


def test_readers_see_what_is_written_while_it_is_written(path, store):
    """A reader beside the writer gets rows, counts and the sweep's description."""
    trial = make_trial()
    with Journal.open(path, SWEEP, now=1.0) as journal, Journal.read_only(path) as reader:
        journal.rebuild(TrialGraph([trial]), store, now=1.0)
        assert reader.counts()[TrialState.PENDING] == 1
        journal.record([Transition(trial.key, TrialState.RUNNING, "started")], now=2.0)
        journal.show_life({}, 7.5)
        assert reader.counts()[TrialState.RUNNING] == 1
        meta = reader.meta()
        assert meta["pid"] == str(os.getpid())
        assert meta["heartbeat"] == "7.5"
        assert (meta["name"], meta["sweep_hash"], meta["spec_yaml"]) == (
            "toy",
            "h1",
            "name: toy\n",
        )


def test_a_second_writer_is_refused(path):
    """It is told who writes, since when and what to do; afterwards the lock is free."""
    with Journal.open(path, SWEEP, now=1.0):
        expected = rf"being run by process {os.getpid()} on .* since 20.*'tickets status'"
        with pytest.raises(UserError, match=expected):
            Journal.open(path, SWEEP, now=2.0)
    Journal.open(path, SWEEP, now=3.0).close()


def test_a_writer_that_has_not_said_who_it_is_is_respected(path):
    """A lock without a description is a lock."""
    path.parent.mkdir(parents=True)
    with open(f"{path}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="being run by another process"):
            Journal.open(path, SWEEP, now=1.0)


HOLD = """
import sys, time
from orchestrator.journal import Journal, SweepInfo, Transition
from search_spaces.contracts import TrialState
journal = Journal.open(sys.argv[1], SweepInfo("toy", "h1", ""), now=1.0)
journal.record([Transition(sys.argv[2], TrialState.RUNNING, "started")], now=2.0)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_writer_leaves_its_lock_and_its_work(path, store):
    """While it lives another process is refused; killed, its running trials are pending again."""
    trial, done = make_trial(seed=1), make_trial(seed=2)
    with Journal.open(path, SWEEP, now=1.0) as journal:
        store.commit(finish(store.uri, done, "a1"), done.spec)
        journal.rebuild(TrialGraph([trial, done]), store, now=1.0)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), trial.key],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(UserError, match=f"process {process.pid} on "):
            Journal.open(path, SWEEP, now=3.0)
        assert not has_ended(path)
    finally:
        process.kill()
        process.communicate()
    assert has_ended(path)
    with Journal.open(path, SWEEP, now=4.0) as journal:
        assert journal.counts()[TrialState.RUNNING] == 0
        assert journal.counts()[TrialState.SUCCEEDED] == 1
        assert journal.num_attempts(trial.key) == 1
        last = journal.events()[-1]
        assert (last.at, last.key, last.kind) == (4.0, trial.key, "interrupted")


def test_only_a_writer_that_is_surely_gone_has_ended(path):
    """Another host's, an unreadable one and none at all may be alive."""
    assert not has_ended(path)
    path.parent.mkdir(parents=True)
    lock = path.with_name(f"{path.name}.lock")
    for text in ("", "{", "[]", '{"pid": 1}', '{"pid": 999999999, "host": "elsewhere"}'):
        lock.write_text(text)
        assert not has_ended(path)


def test_a_number_given_anew_is_no_writer(path):
    """Another process has the dead writer's number: it is not asked to stop in its place."""
    Journal.open(path, SWEEP, now=1.0).close()
    assert not has_ended(path)
    lock = path.with_name(f"{path.name}.lock")
    holder = json.loads(lock.read_text())
    lock.write_text(json.dumps({**holder, "pid_started": "1"}))
    assert has_ended(path)
    lock.write_text(json.dumps({**holder, "pid": 999999999}))
    assert has_ended(path)
    lock.write_text(json.dumps({**holder, "pid": 999999999, "machine": "this host, another boot"}))
    assert not has_ended(path)


def test_a_journal_rebuilt_from_the_store_equals(path, tmp_path, store):
    """What is committed comes back with label, kind, state and seconds; the rest is pending."""
    lineage = make_lineage(num_rounds=4)
    graph = TrialGraph(lineage)
    with Journal.open(path, SWEEP, now=1.0) as journal:
        journal.rebuild(graph, store, now=1.0)
        for trial in lineage[:3]:
            result = finish(store.uri, trial, "a1")
            store.commit(result, trial.spec)
            done = Transition(
                trial.key, TrialState.SUCCEEDED, "succeeded", seconds=result.seconds["total"]
            )
            journal.record([done], now=1.0)
        original = journal.trials()
    with Journal.open(tmp_path / "other.db", SWEEP, now=1.0) as rebuilt:
        committed = rebuilt.rebuild(graph, store, now=1.0)
        assert rebuilt.trials() == original
        assert list(committed) == [trial.key for trial in lineage[:3]]
        assert [e.kind for e in rebuilt.events()] == ["reused"] * 3


def test_a_result_that_vanished_is_pending_again(path, store):
    """The store is the truth: without its marker, or without a mask, a trial must run."""
    first, second = make_lineage(num_rounds=2)
    for trial in (first, second):
        store.commit(finish(store.uri, trial, "a1"), trial.spec)
    with Journal.open(path, SWEEP, now=1.0) as journal:
        journal.rebuild(TrialGraph([first, second]), store, now=1.0)
        store.quarantine(first.key, "for the test")
        Path(store.artifact(second.key, second.outputs.artifacts[0]).uri).unlink()
        assert journal.rebuild(TrialGraph([first, second]), store, now=2.0) == {}
        assert journal.counts()[TrialState.PENDING] == 2
        assert [e.kind for e in journal.events()][2:] == ["lost", "lost"]


def test_a_changed_sweep_keeps_what_it_shares(path, store):
    """Trials that are no longer wanted go, new ones come, numbers of attempts stay."""
    kept, gone, new = (make_trial(seed=seed) for seed in range(3))
    with Journal.open(path, SWEEP, now=1.0) as journal:
        journal.rebuild(TrialGraph([kept, gone]), store, now=1.0)
        journal.record([Transition(kept.key, TrialState.RUNNING, "started")], now=1.0)
        journal.record([Transition(kept.key, TrialState.FAILED, "failed", "broke")], now=1.0)
    with Journal.open(path, replace(SWEEP, sweep_hash="h2"), now=2.0) as journal:
        assert journal.events()[-1].payload == {"from": "h1", "to": "h2"}
        journal.rebuild(TrialGraph([kept, new]), store, now=2.0)
        rows = {row.key: row for row in journal.trials()}
        assert set(rows) == {kept.key, new.key}
        assert rows[kept.key].attempts == 1
        assert (rows[kept.key].state, rows[kept.key].message) == (TrialState.PENDING, "")


def test_policy_additions_are_rows_and_events(path, store):
    """A trial that a policy adds is pending, and the reason is kept."""
    trial = make_trial()
    with Journal.open(path, SWEEP, now=1.0) as journal:
        journal.add(trial.key, trial, "one more seed", now=2.0)
        assert journal.counts()[TrialState.PENDING] == 1
        assert journal.events()[0].payload == {"reason": "one more seed"}


def test_journals_that_cannot_be_used_are_explained(path):
    """An absent journal and a place that is none name the file and the next step."""
    with pytest.raises(UserError, match=r"journal\.db: there is no journal.*'tickets run'"):
        Journal.read_only(path)
    path.parent.mkdir(parents=True)
    path.write_text("a file")
    with pytest.raises(UserError, match=r"cannot be used .*Check that the folder exists"):
        Journal.open(path / "below-a-file" / "journal.db", SWEEP, now=1.0)
