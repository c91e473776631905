"""The commands that steer a sweep, as a user types them, against a live and a stopped driver."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import steering_commands
from orchestrator.cli import app
from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal
from orchestrator.journal_reader import TrialRow
from orchestrator.steering import held_back
from orchestrator.steering_commands import LATER, known_labels
from orchestrator.trial_names import completions, find_trials
from search_spaces.canonical import short
from search_spaces.contracts import TrialState
from search_spaces.errors import SpecError, UserError
from tests.orchestrator.simulated import SimulatedExecutor
from tests.orchestrator.steered import TRIALS, CommandWorld, SlowExecutor
from tests.orchestrator.world import SWEEP


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandWorld:
    monkeypatch.setattr(steering_commands, "ANSWER_S", 60.0)  # the machine may be busy
    return CommandWorld(tmp_path)


def test_a_live_sweep_answers(world):
    """Paused, cut, reopened, resumed and stopped from another thread, each with its answer."""
    world.inbox.put(steering_commands.Command.new("pause"))
    thread = world.go()
    assert world.tickets("pause") == "The sweep was paused already: nothing new starts."
    assert world.tickets("cancel", short(TRIALS[1].key)) == (
        "1 trial cancelled, 2 that wait for them too."
    )
    with pytest.raises(UserError, match=r"sweep\.yaml: Nothing to cancel: it is CANCELLED"):
        world.tickets("cancel", TRIALS[3].key)
    assert world.tickets("retry", "toy/*:r1:*") == (
        "1 trial will be tried again, with fresh budgets, 2 that wait for them too."
    )
    with pytest.raises(UserError, match="Nothing to try again: there is no such trial"):
        world.tickets("retry")
    said = world.tickets("stop")
    assert said == (
        f"Stopped: 0 trials are done and kept, 4 are left. Go on with: tickets run {world.sweep}"
    )
    thread.join(60)
    assert not thread.is_alive() and world.inbox.waiting() == []
    assert world.tickets("resume") == LATER
    assert world.run(TRIALS).succeeded
    with pytest.raises(UserError, match=r"all of the sweep's 4 trials are done\.$"):
        world.tickets("pause")


def test_a_stopped_sweep_takes_commands_at_its_next_run(world):
    """They wait beside the journal, in the order in which they were sent."""
    world.make_journal()
    assert world.tickets("cancel", "--all") == LATER
    assert world.tickets("retry", TRIALS[0].main_role.label) == LATER
    assert held_back(world.journal_path, TRIALS) == {}  # not known before they are carried out
    assert [one.verb for one in world.inbox.waiting()] == ["cancel", "retry"]
    assert world.run(TRIALS).succeeded
    with pytest.raises(UserError, match=r"the sweep is not running; process \d+ on .* ended\. T"):
        world.tickets("stop")


def test_a_plan_leaves_out_what_was_cancelled(world):
    """With what waits for it, and with the command that reopens it."""
    assert held_back(world.journal_path, TRIALS) == {}
    world.make_journal()
    world.tickets("cancel", TRIALS[2].key)
    world.run(TRIALS)
    held = held_back(world.journal_path, TRIALS)
    assert list(held) == [TRIALS[2].key, TRIALS[3].key]
    assert held[TRIALS[3].key] == (
        "It waits for a cancelled trial. Cancelled by command; 'tickets retry' reopens it."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cancel"], "name the trials, or say --all"),
        (["cancel", "x", "--all"], "name the trials, or say --all"),
        (["retry", "x", "--failed"], "name the trials or say --failed, not both"),
    ],
)
def test_contradictions_are_refused(world, arguments, message):
    """Nothing is sent."""
    with pytest.raises(UserError, match=message):
        world.tickets(*arguments)
    assert world.inbox.waiting() == []


def test_a_sweep_that_never_ran_has_no_journal(world):
    """The message names the command that starts it."""
    with pytest.raises(UserError, match=r"there is no journal. Start the sweep with 'tickets run'"):
        world.tickets("pause")


def test_a_driver_that_does_not_answer_is_said_to_be_so(world, monkeypatch):
    """The command waits; a stop falls back to Ctrl-C, and says when even that does not help."""
    with Journal.open(world.journal_path, SWEEP, now=time.time()) as journal:  # no loop behind it
        journal.rebuild(TrialGraph(TRIALS), world.store, now=1.0)
        monkeypatch.setattr(steering_commands, "ANSWER_S", 0.2)
        monkeypatch.setattr(steering_commands, "STOP_S", 0.2)
        said = world.tickets("pause")
        assert said.startswith("No answer within 0 s; the command waits until the run looks for it")
        assert f"driven by process {os.getpid()} on {socket.gethostname()}" in said
        with pytest.raises(UserError, match="the run was asked to end, but after 0 s it has not"):
            world.tickets("stop")
        assert [one.verb for one in world.inbox.waiting()] == ["pause"]  # the stop is taken back


SLEEP = """
import sys, time
from orchestrator.journal import Journal, SweepInfo
try:
    with Journal.open(sys.argv[1], SweepInfo("toy", "h", ""), now=time.time()) as journal:
        print("ready", flush=True)
        time.sleep(120)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_stop_presses_ctrl_c_where_the_inbox_is_not_read(world, monkeypatch):
    """As while Ray starts: the process on this host gets SIGINT and the command says so."""
    world.make_journal()
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEP, str(world.journal_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout.readline() == "ready\n"
        monkeypatch.setattr(steering_commands, "ANSWER_S", 0.3)
        threading.Thread(target=process.wait, daemon=True).start()  # else it stays a zombie
        assert world.tickets("stop").startswith("Stopped: 0 trials are done and kept, 4 are left.")
        assert process.stdout.read() == "interrupted\n"
    finally:
        process.kill()


def test_stop_signals_no_stranger(world, monkeypatch):
    """The driver died and its number was given to another process, which must not suffer."""
    with Journal.open(world.journal_path, SWEEP, now=time.time()) as journal:
        journal.rebuild(TrialGraph(TRIALS), world.store, now=1.0)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    try:
        with closing(sqlite3.connect(world.journal_path)) as database, database:
            database.execute("UPDATE meta SET value = ? WHERE name = 'pid'", (str(stranger.pid),))
        lock = json.dumps({"pid": stranger.pid, "host": socket.gethostname()})
        world.journal_path.with_name(f"{world.journal_path.name}.lock").write_text(lock)
        monkeypatch.setattr(steering_commands, "ANSWER_S", 0.1)
        with pytest.raises(UserError, match=r"is not the sweep's any more: .*'tickets run' goes"):
            world.tickets("stop")
        assert stranger.poll() is None and world.inbox.waiting() == []
    finally:
        stranger.kill()
        stranger.wait()


def test_a_stop_is_left_for_a_driver_that_is_busy(world, monkeypatch):
    """Where it cannot be signalled: here it is a thread of this process."""

    def wait(self, timeout_s):
        time.sleep(0.5)
        return SimulatedExecutor.wait(self, timeout_s)

    monkeypatch.setattr(SlowExecutor, "wait", wait)
    world.inbox.put(steering_commands.Command.new("pause"))
    thread = world.go()
    monkeypatch.setattr(steering_commands, "ANSWER_S", 0.01)
    assert world.tickets("stop").startswith("Stopped: ")
    thread.join(60)
    assert not thread.is_alive() and world.inbox.waiting() == []


def test_a_journal_without_trials_is_not_done(world):
    """Its first run died before it wrote them: a command waits for the next one."""
    with Journal.open(world.journal_path, SWEEP, now=time.time()) as journal:
        journal.end(time.time())
    assert world.tickets("pause") == LATER


def row(key, label):
    return TrialRow(key, label, "final", TrialState.PENDING, 0, "", None, 0.0)


ROWS = [
    row("ab12" + "0" * 60, "final:mrpc:imp:0.3:s1"),
    row("ab34" + "0" * 60, "final:mrpc:imp:0.3:s2"),
    row("cd00" + "0" * 60, "final:sst2:imp:0.3:s1"),
    row("ee00" + "0" * 60, "dense:sst2:s1"),
    row("ff00" + "0" * 60, "dense:sst2:s1"),  # of another model
]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ab12"], [0]),
        (["final:sst2:imp:0.3:s1"], [2]),
        (["mrpc/*"], [0, 1]),
        (["final:sst2:*", "ab34"], [1, 2]),
        (["dense:*"], [3, 4]),
        (["*:s1"], [0, 2, 3, 4]),
        ([], []),
    ],
)
def test_names_mean_trials(names, expected):
    """Keys by their first characters, labels, and patterns with or without the kind."""
    assert find_trials("s.yaml", ROWS, names) == [ROWS[place] for place in expected]


def test_all_names_that_mean_nothing_are_told_at_once():
    """Each with what it means or what was likely meant."""
    names = ["ab", "dense:sst2:s1", "final:mrpc:imp:0.3:s3", "qqp/*", "zz"]
    with pytest.raises(SpecError) as caught:
        find_trials("s.yaml", ROWS, names)
    first, second, third, fourth, fifth = map(str, caught.value.faults)
    assert first.startswith("s.yaml: 'ab': 2 trials are meant: final:mrpc:imp:0.3:s1 (ab12")
    assert first.endswith("Type more of the key, or a pattern with '*'.")
    assert "'dense:sst2:s1': 2 trials are meant" in second
    assert "no trial is meant. Did you mean 'final:mrpc:imp:0.3:s" in third
    assert fourth == ("s.yaml: 'qqp/*': no trial is meant. 'tickets status' lists keys and labels.")
    assert "'zz': no trial is meant" in fifth


def test_shells_complete_labels(world):
    """From the journal; a sweep that cannot be read completes to nothing and says nothing."""
    assert completions(ROWS, "dense") == ["dense:sst2:s1"]
    context = type("Context", (), {"params": {"sweep": world.sweep}})
    assert known_labels(context, "") == []
    world.make_journal()
    assert known_labels(context, "round:toy:imp:r1") == ["round:toy:imp:r1:0.1:s0"]


@pytest.mark.parametrize("command", ["pause", "resume", "cancel", "retry", "stop", "watch", "logs"])
def test_help_teaches(command):
    """Each says what it does and names the sweep."""
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "100"})
    assert result.exit_code == 0 and "SWEEP" in result.output and len(result.output) > 300
