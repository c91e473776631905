"""What can be seen of a sweep from its journal alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.costs import any_compute, estimate
from orchestrator.driver_life import DriverLife, driver_life
from orchestrator.graph import TrialGraph
from orchestrator.inbox import Command, Inbox
from orchestrator.journal import Journal, Transition
from orchestrator.processes import this_machine
from orchestrator.steered_scheduler import SteeredScheduler
from orchestrator.vitals import Vitals
from orchestrator.watch import Watcher, grid_place
from orchestrator.watch_screen import NUM_RUNNING, NUM_SIGNS
from search_spaces.contracts import Compute, Progress, TrialState
from search_spaces.errors import UserError
from tests.orchestrator.factories import make_lineage, make_result, make_trial
from tests.orchestrator.frames import NOW, fill, shown
from tests.orchestrator.steered import CommandWorld
from tests.orchestrator.world import SWEEP


@pytest.fixture
def world(tmp_path: Path) -> CommandWorld:
    return CommandWorld(tmp_path)


def test_a_frame_has_all_that_the_journal_knows(world):
    """States, running trials, failures with what they block, speed, and the time that is left."""
    journal, *_ = fill(world)
    with journal:
        frame = Watcher(journal).look(NOW)
    assert frame.counts[TrialState.BLOCKED] == 2 and frame.kinds["round"][TrialState.FAILED] == 1
    (running,) = frame.running
    assert (running.phase, running.step, running.loss, running.seconds) == ("train", 30, 0.25, 60)
    (failed,) = frame.failed
    assert (failed.failure, failed.message, failed.num_blocked) == ("error", "[b] broke", 2)
    assert (frame.life.state, frame.life.heartbeat_age_s) == ("alive", 2.0)
    assert (frame.trials_per_h, frame.tokens_per_s, frame.eta_s) == (2.0, 1234.5, 498.0)
    assert frame.commands == ("cancel: 1 trial cancelled.",)
    assert frame.grid.columns == ("dense", "0.1", "0.2", "0.3")
    text = shown(frame)
    for part in ("driven by process", "Ray at home", "2 trials/h", "1,234 tokens/s", "30/100"):
        assert part in text
    assert "error: [b] broke (blocks 2)" in text and "toy imp search" in text
    assert "1/7 done" in text and "ends in about" in text


def test_a_paused_sweep_has_no_end_in_sight(world):
    """The frame says how to go on, and how many commands nobody has taken out."""
    journal, *_ = fill(world)
    with journal:
        journal.obey({"id": "2", "verb": "pause", "text": "."}, [], NOW, paused=True)
        Inbox(world.journal_path).put(Command.new("resume"))
        frame = Watcher(journal).look(NOW)
    assert frame.is_paused and frame.eta_s is None
    text = shown(frame)
    assert "PAUSED: 'tickets resume' lets it go on" in text and "1 command(s) wait" in text


def test_a_sweep_that_only_starts_has_nothing_to_show(world):
    """While Ray starts there are no rows yet."""
    with Journal.open(world.journal_path, SWEEP, now=NOW) as journal:
        assert "Its trials are not in the journal yet." in shown(Watcher(journal).look(NOW))


def test_many_trials_are_numbers_and_not_signs(world):
    """A cell with more seeds than signs counts them; long lists say how many they leave out."""
    trials = [make_trial(seed=seed, kind="final") for seed in range(NUM_RUNNING + NUM_SIGNS)]
    with Journal.open(world.journal_path, SWEEP, now=NOW) as journal:
        journal.rebuild(TrialGraph(trials), world.store, now=NOW)
        journal.record([Transition(one.key, TrialState.RUNNING, "started") for one in trials], NOW)
        frame = Watcher(journal).look(NOW)
    text = shown(frame)
    assert f"0/{len(trials)}▶" in text and f"and {NUM_SIGNS} more" in text
    assert frame.trials_per_h is None and frame.eta_s is None and frame.tokens_per_s is None


@pytest.mark.parametrize(
    ("label", "place"),
    [
        ("dense:mrpc:s1", ("mrpc", "dense")),
        ("round:mrpc:imp:r0:s1", ("mrpc imp search", "dense")),
        ("round:mrpc:imp:r2:0.36:s1", ("mrpc imp search", "0.36")),
        ("final:mrpc:imp:0.36:s1", ("mrpc imp", "0.36")),
        ("control:mrpc:random-uniform:0.36:s1", ("mrpc random-uniform", "0.36")),
        ("transfer:mnli>mrpc:imp:0.5:s1", ("mnli>mrpc imp transfer", "0.5")),
    ],
)
def test_labels_have_a_place(label, place):
    """Row: task, method and kind; column: level."""
    assert grid_place(label) == place


def test_who_drives_is_told_apart(world):
    """Alive, silent, ended of its own accord, or dead without a word; and for people."""
    me = {"pid": str(os.getpid()), "host": socket.gethostname(), "started_at": "5.0"}
    path = world.journal_path
    assert driver_life({**me, "heartbeat": "99"}, path, 100.0).state == "alive"
    silent = driver_life({**me, "heartbeat": "10"}, path, 100.0)
    assert silent.state == "silent" and silent.may_run and not silent.is_on_this_host
    assert "has given no sign of life for 90 s" in silent.text
    ended = driver_life({**me, "heartbeat": "10", "ended_at": "9"}, path, 100.0)
    assert ended.text == f"not running; process {os.getpid()} on {socket.gethostname()} has ended"
    again = driver_life({**me, "heartbeat": "99", "ended_at": "4"}, path, 100.0)
    assert again.state == "alive"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path.parent.mkdir(parents=True)
    lock = {"pid": dead.pid, "machine": this_machine(), "pid_started": "1"}
    path.with_name(f"{path.name}.lock").write_text(json.dumps(lock))
    died = driver_life({**me, "pid": str(dead.pid), "heartbeat": "99"}, path, 100.0)
    assert died.state == "died" and "is gone and has not ended the sweep" in died.text
    assert DriverLife("alive", 1, "elsewhere", 1.0).is_on_this_host is False


def test_a_run_lives_though_the_clock_was_set_back_before_it(world):
    """Else 'tickets stop' would say that there is no run."""
    with Journal.open(world.journal_path, SWEEP, now=NOW) as journal:
        journal.end(NOW + 5)
        assert driver_life(journal.meta(), journal.path, NOW + 6).state == "ended"
    with Journal.open(world.journal_path, SWEEP, now=NOW - 60) as journal:
        assert driver_life(journal.meta(), journal.path, NOW - 59).state == "alive"


def test_watch_prints_one_frame_or_json(world):
    """Without a terminal there is one frame; JSON has every number."""
    journal, *_ = fill(world)
    journal.close()
    assert "sweep toy" in world.tickets("watch", "--once")
    assert "sweep toy" in world.tickets("watch")
    data = json.loads(world.tickets("watch", "--json"))
    assert data["counts"]["BLOCKED"] == 2 and data["life"]["state"] == "silent"
    assert data["running"][0]["phase"] == "train"


def test_logs_tell_all_of_a_trial(world, tmp_path):
    """Attempts, events with times, class, message, traceback, and the end of its rank's log."""
    log = tmp_path / "rank.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    journal, broken, other = fill(world, str(log))
    journal.close()
    text = world.tickets("logs", broken[0].key[:12])
    assert "attempts started: 1" in text and "message: [b] broke" in text
    assert "1970-01-01 02:31:40Z  failed  a0001-aa  error, given up: [b] broke" in text
    assert "    | ValueError: broke" in text
    assert f"its log, {log}, ends with:" in text
    assert "> line 99" in text and "> line 60" in text and "> line 59" not in text
    assert "because of" in world.tickets("logs", broken[1].key)
    assert "Nothing has happened to it yet." in world.tickets("logs", other[2].key)
    data = json.loads(world.tickets("logs", broken[0].key, "--json"))
    assert data["events"][1]["log"]["pid"] == 7
    log.unlink()
    assert f"its log is on 10.0.0.1: {log} (not on this machine, or gone)" in world.tickets(
        "logs", broken[0].key
    )
    with pytest.raises(UserError, match=r"'\*' means 7 trials; name one of them"):
        world.tickets("logs", "*")


def test_logs_tell_what_an_attempt_does_otherwise_and_whose_answer_came_late(world):
    """A smaller micro-batch, a refused answer; a trial that was cancelled itself names no other."""
    (trial,) = make_lineage(1, 1)
    with Journal.open(world.journal_path, SWEEP, now=NOW) as journal:
        journal.rebuild(TrialGraph([trial]), world.store, now=NOW)
        note = {"attempt": "a2", "note": "retry 1 with micro-batch 8 instead of 16"}
        started = Transition(trial.key, TrialState.RUNNING, "started", payload=note)
        ended = Transition(
            trial.key, TrialState.CANCELLED, "given_up", payload={"cause": trial.key}
        )
        journal.record([started, ended], NOW)
        journal.note(trial.key, "refused", {"attempt": "a1", "answer": "failed"}, NOW)
    lines = world.tickets("logs", trial.key).splitlines()
    assert lines[-3].endswith("started  a2  retry 1 with micro-batch 8 instead of 16")
    assert lines[-2].endswith("given_up")
    assert lines[-1].endswith("a1  failed too late: it was given up or replaced before")


class TwoSlots:
    """What vitals ask of an executor."""

    num_slots, description = 2, "two slots"

    def __init__(self, *points):
        self.points = list(points)

    def progress(self):
        return self.points


def test_the_time_left_counts_the_ranks_of_each_gang():
    """A gang of two takes both slots: its trials last, and the others share what is beside them."""
    large, small = make_trial(seed=1), [make_trial(seed=seed) for seed in (2, 3, 4)]
    graph = TrialGraph([large, *small])

    def compute_for(trial):
        return Compute(num_ranks=2 if trial.key == large.key else 1)

    seconds = [estimate(one.spec, compute_for(one), {}).seconds for one in (large, small[0])]
    vitals = Vitals(graph, SteeredScheduler(graph), TwoSlots(), compute_for)
    told = vitals.now(0.0)
    assert told["eta_s"] == pytest.approx((2 * seconds[0] + 3 * seconds[1]) / 2)


def test_the_time_left_is_that_of_the_cost_model():
    """All open work over the slots, or the longest chain; measured where there are results."""
    lineage, single = make_lineage(1, 3), make_trial(seed=9)
    graph = TrialGraph([*lineage, single])
    scheduler = SteeredScheduler(graph)
    scheduler.reuse(lineage[0].key)
    vitals = Vitals(graph, scheduler, TwoSlots(), any_compute)
    assert not vitals.now(0.0)["is_measured"]
    vitals.note(lineage[0].key, make_result(lineage[0], "a1", train_s=8.0, other_s=2.0))
    told = vitals.now(100.0)
    assert told["is_measured"] and told["eta_s"] == pytest.approx(20.0)  # the chain of two
    assert told["tokens_per_s"] == 160 / 8.0
    scheduler.start(lineage[1].key, "a1")
    half = Progress(trial_key=lineage[1].key, phase="train", step=5, num_steps=10, loss=1.0)
    vitals = Vitals(graph, scheduler, TwoSlots(half), any_compute)
    vitals.note(lineage[0].key, make_result(lineage[0], "a1", train_s=8.0, other_s=2.0))
    assert vitals.now(0.0)["eta_s"] == pytest.approx(15.0)
    assert json.loads(json.dumps(vitals.now(time.time())))["running"][0]["step"] == 5
