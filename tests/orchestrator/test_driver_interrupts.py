"""Ctrl-C while a sweep is driven: wherever it falls, the sweep ends in order."""

from __future__ import annotations

import itertools
import signal
import sys

import pytest

from orchestrator.ctrl_c import CtrlC
from search_spaces.contracts import FailureClass, TrialState
from tests.orchestrator.factories import make_lineage
from tests.orchestrator.simulated import FakeClock, Killed
from tests.orchestrator.world import Diary, World


class Interrupting(Diary):
    """Presses Ctrl-C when the second trial has succeeded."""

    def succeeded(self, trial, result):
        super().succeeded(trial, result)
        if len(self.of("succeeded")) == 2:
            raise KeyboardInterrupt


def test_an_interrupted_sweep_keeps_what_is_committed(world):
    """Ctrl-C ends in an outcome; open trials are CANCELLED, and the next run does only those."""
    trials = make_lineage(num_rounds=5)
    world.diary = Interrupting()
    outcome = world.run(trials)
    assert outcome.cancelled and not outcome.succeeded
    assert world.executor.num_closes >= 1
    assert outcome.counts[TrialState.SUCCEEDED] == 2
    assert outcome.counts[TrialState.CANCELLED] == 3
    assert {row.state for row in world.rows().values()} == {
        TrialState.SUCCEEDED,
        TrialState.CANCELLED,
    }
    world.diary = Diary()
    assert world.run(trials).succeeded
    assert world.submitted == [trial.key for trial in trials[2:]]


class Pressing(FakeClock):
    """Ctrl-C is pressed at the n-th look."""

    def __call__(self):
        try:
            return super().__call__()
        except Killed:
            raise KeyboardInterrupt from None


def test_wherever_an_interrupt_falls_the_journal_has_no_open_trial(tmp_path):
    """Also between the scheduler's change and the journal's; the last look is the run's end."""
    trials = make_lineage(num_rounds=2)
    for look in itertools.count(1):
        world = World(tmp_path / str(look))
        try:
            outcome = world.run(trials, Pressing(look), fail=lambda _: FailureClass.USER_ERROR)
        except KeyboardInterrupt:
            break
        assert outcome.cancelled
        assert all(row.state.is_finished for row in world.rows().values()), f"at look {look}"
    assert look > 5


class Interrupted:
    """Ctrl-C is pressed while its destructor runs."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


class Deaf(Diary):
    """Does not hear of a Ctrl-C that is pressed when the second trial has succeeded."""

    def succeeded(self, trial, result):
        super().succeeded(trial, result)
        if len(self.of("succeeded")) == 2:
            Interrupted()


def test_an_interrupt_that_python_drops_stops_the_sweep_all_the_same(world, capsys):
    """As in a destructor or fork hook; and not with a traceback."""
    trials = make_lineage(num_rounds=5)
    world.diary = Deaf()
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    with CtrlC() as ctrl_c:
        outcome = world.run(trials, check=ctrl_c.check)
    assert outcome.cancelled
    assert outcome.counts[TrialState.SUCCEEDED] == 2
    assert capsys.readouterr().err == ""
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == (handler, hook)


class Told(Diary):
    """Another program sends SIGTERM when the second trial has succeeded, and again and again."""

    def succeeded(self, trial, result):
        super().succeeded(trial, result)
        if len(self.of("succeeded")) == 2:
            signal.raise_signal(signal.SIGTERM)

    def finished(self, outcome):
        super().finished(outcome)
        signal.raise_signal(signal.SIGTERM)


def test_sigterm_is_as_ctrl_c_and_one_more_breaks_nothing_off(world):
    """The sweep ends in order, and the exit code tells the two apart."""
    world.diary = Told()
    handler = signal.getsignal(signal.SIGTERM)
    with CtrlC() as told:
        assert told.exit_code == 130  # by whatever else a run is stopped
        outcome = world.run(make_lineage(num_rounds=5), check=told.check)
        assert told.exit_code == 143
        with pytest.raises(KeyboardInterrupt):  # a person may still press it
            signal.raise_signal(signal.SIGINT)
    assert outcome.cancelled and outcome.counts[TrialState.SUCCEEDED] == 2
    assert told.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == handler


class Leaving:
    """Its destructor meets SIGTERM where Ray's handler, which leaves, stands in for ours."""

    def __del__(self):
        sys.exit(signal.SIGTERM)


def test_a_sigterm_that_python_drops_while_ray_starts_stops_the_sweep(capsys):
    """Ray's handler raises SystemExit, which is lost in a destructor or while a lock is freed."""
    with CtrlC() as ctrl_c:
        Leaving()
        with pytest.raises(KeyboardInterrupt):
            ctrl_c.check()
    assert ctrl_c.exit_code == 143
    assert capsys.readouterr().err == ""
