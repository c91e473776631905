"""Commands to a sweep: each is carried out once, whatever dies, and the journal remembers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from orchestrator.graph import TrialGraph
from orchestrator.inbox import Command
from orchestrator.journal import Journal
from orchestrator.retries import DEFAULT_BUDGETS
from orchestrator.steered_scheduler import SteeredScheduler
from orchestrator.steering import STILL_PAUSED
from search_spaces.contracts import FailureClass, TrialState
from tests.orchestrator.factories import make_lineage, make_trial
from tests.orchestrator.simulated import FakeClock, SimulatedExecutor
from tests.orchestrator.steered import At, SteeredWorld


@pytest.fixture
def world(tmp_path: Path) -> SteeredWorld:
    return SteeredWorld(tmp_path)


def test_a_paused_sweep_starts_nothing_until_it_is_resumed(world):
    """Running trials end; the pause survives a restart, and is said then."""
    trials = make_lineage(num_rounds=4)
    world.send("pause")
    world.run(trials, check=At(r6=lambda: world.send("stop")))
    assert world.submitted == []
    world.run(trials, check=At(r6=lambda: world.send("stop")))
    assert world.submitted == [] and STILL_PAUSED in world.told.said
    outcome = world.run(trials, check=At(r4=lambda: world.send("resume")))
    assert outcome.succeeded and len(world.submitted) == 4
    assert world.answers() == [
        "The sweep is paused: nothing new starts.",
        "The run ends; what is committed stays.",
        "The run ends; what is committed stays.",
        "The sweep goes on.",
    ]


def test_a_pause_lets_running_trials_end(world):
    """What runs is committed, what waits does not start, and a due retry does not spin."""
    trials = [make_trial(seed=seed) for seed in range(5)]
    check = At(r2=lambda: world.send("pause"), r30=lambda: world.send("stop"))
    outcome = world.run(trials, check=check, num_slots=2)
    assert outcome.counts[TrialState.SUCCEEDED] == 2
    assert "The sweep is paused: nothing new starts; 2 trials running will end." in world.answers()
    world.send("pause")
    world.send("resume")
    world.send("resume")
    assert world.run(trials).succeeded
    assert world.answers()[2:] == [
        "The sweep was paused already: nothing new starts.",
        "The sweep goes on.",
        "The sweep was not paused.",
    ]


def test_cancelling_ends_a_running_trial_and_what_waits_for_it(world):
    """Its slot is free at once; the rest of the sweep goes on; a restart keeps it cancelled."""
    doomed, fine = make_lineage(1, 4), make_lineage(2, 3)
    check = At(r2=lambda: world.send("cancel", doomed[0], doomed[2]))
    outcome = world.run([*doomed, *fine], check=check, num_slots=1)
    assert world.executor.cancelled == [doomed[0].key]
    assert world.submitted == [doomed[0].key, *(trial.key for trial in fine)]
    assert outcome.counts[TrialState.CANCELLED] == 4 and not outcome.cancelled
    assert world.answers() == ["2 trials cancelled (1 of them running), 2 that wait for them too."]
    rows = world.rows()
    assert rows[doomed[0].key].message == "Cancelled by command; 'tickets retry' reopens it."
    assert rows[doomed[3].key].message.startswith("It waits for round:toy:imp:r0:s1. Cancelled")
    world.run([*doomed, *fine])
    assert world.submitted == [] and world.states()[doomed[3].key] is TrialState.CANCELLED
    world.send("retry", doomed[2])
    world.run([*doomed, *fine])
    assert world.submitted == []
    assert world.answers()[-1] == (
        "Nothing to try again: it is CANCELLED, because it waits for round:toy:imp:r0:s1; "
        "name that one."
    )
    world.send("retry", doomed[0])
    assert world.run([*doomed, *fine]).succeeded
    assert world.answers()[-1] == (
        "1 trial will be tried again, with fresh budgets, 3 that wait for them too."
    )


def test_everything_open_can_be_cancelled(world):
    """The sweep then ends; what had ended stays, and nothing is left to cancel."""
    trials = [make_trial(seed=seed) for seed in range(6)]
    check = At(r4=lambda: world.send("cancel", everything=True))
    outcome = world.run(trials, check=check, num_slots=1)
    assert outcome.counts[TrialState.SUCCEEDED] + outcome.counts[TrialState.CANCELLED] == 6
    assert outcome.counts[TrialState.CANCELLED] > 0
    done = next(t for t in trials if world.states()[t.key] is TrialState.SUCCEEDED)
    extra = make_trial(seed=9)
    world.send("cancel", done)
    world.run([*trials, extra])
    assert world.answers()[-1] == "Nothing to cancel: the trials named are 1 SUCCEEDED."
    assert world.submitted == [extra.key]


def test_failed_trials_are_tried_again_while_the_sweep_runs(world):
    """With fresh budgets, and what they blocked with them; others are left alone."""
    broken, slow = make_lineage(1, 3), make_lineage(2, 9)
    left = Counter({broken[0].key: 2 + DEFAULT_BUDGETS[FailureClass.ERROR]})

    def fail(request):
        left[request.spec.key] -= 1
        return FailureClass.ERROR if left[request.spec.key] >= 0 else None

    check = At(r8=lambda: world.send("retry", everything=True))
    assert world.run([*broken, *slow], fail=fail, check=check).succeeded
    assert world.submitted.count(broken[0].key) == 4
    assert world.answers() == [
        "1 trial will be tried again, with fresh budgets, 2 that wait for them too."
    ]
    world.send("retry", everything=True)
    world.run([*broken, *slow, make_trial(seed=77)])
    assert world.answers()[-1] == "Every run tries failed trials anew."


def test_a_retry_sent_to_a_stopped_sweep_says_that_runs_retry_anyway(world):
    """Every run begins with all failed trials pending."""
    trial = make_trial()
    world.run([trial], fail=lambda request: FailureClass.USER_ERROR)
    world.send("retry", trial)
    assert world.run([trial]).succeeded
    assert world.answers() == ["They run again: every run tries failed trials anew."]


def test_a_retry_of_all_that_failed_is_accepted_by_a_stopped_sweep(world):
    """What failed is pending before the first look: nothing is named, nothing is missing."""
    trial = make_trial()
    world.run([trial], fail=lambda request: FailureClass.USER_ERROR)
    world.send("retry", everything=True)
    assert world.run([trial]).succeeded
    (answer,) = [e.payload for e in world.events() if e.kind == "command"]
    assert answer["accepted"] and answer["text"] == "Every run tries failed trials anew."


def test_a_trial_cancelled_before_its_ancestor_names_both(world):
    """Naming it alone is refused with what to do; naming both reopens both."""
    trials = make_lineage(num_rounds=3)
    world.send("cancel", trials[1])
    world.send("cancel", trials[0])
    world.send("retry", trials[1])
    world.run(trials)
    assert world.submitted == []
    assert world.answers()[-1] == (
        "Nothing to try again: it is CANCELLED, and waits for round:toy:imp:r0:s0, which is "
        "CANCELLED; name both."
    )
    world.send("retry", trials[1], trials[0])
    assert world.run(trials).succeeded


def test_a_trial_that_two_block_is_told_of_the_one_that_is_left():
    """Once the first is tried again, the journal must name the second."""
    first, second = make_trial(seed=1, prunes=(100,)), make_trial(seed=2)
    child = make_trial(seed=3, parent=first.key, carry_from=second.key)
    scheduler = SteeredScheduler(TrialGraph([first, second, child]), budgets={})
    for trial in (first, second):
        scheduler.start(trial.key, "a1")
        scheduler.fail(trial.key, FailureClass.ERROR, "broke", now=0.0)
    assert scheduler.cause(child.key).key == first.key
    assert set(scheduler.reopen([first.key])) == {first.key, child.key}
    assert scheduler.state(child.key) is TrialState.BLOCKED
    assert scheduler.cause(child.key).key == second.key


def test_stopping_keeps_what_is_committed_and_never_hits_a_later_run(world):
    """As Ctrl-C does; a stop that nobody took out in time is refused by the next run."""
    trials = make_lineage(num_rounds=5)
    outcome = world.run(trials, check=At(r5=lambda: world.send("stop")))
    assert outcome.cancelled and outcome.counts[TrialState.SUCCEEDED] > 0
    with Journal.read_only(world.journal_path) as reader:
        assert float(reader.meta()["ended_at"]) >= 1000
    old = Command.new("stop").model_copy(update={"at": -1.0})  # the tests' runs begin at 0
    world.inbox.put(old)
    assert world.run(trials).succeeded
    assert world.answers()[-1] == "It was meant for an earlier run, which has ended."


def test_a_trial_that_a_policy_adds_below_a_cancelled_one_is_cancelled():
    """It shares the fate of what it waits for."""
    first, second = make_lineage(num_rounds=2)
    scheduler = SteeredScheduler(TrialGraph([first]))
    scheduler.give_up(first.key, "no")
    assert scheduler.state(scheduler.add(second)) is TrialState.CANCELLED
    assert set(scheduler.reopen([first.key])) == {first.key, second.key}


def test_commands_that_cannot_be_read_are_set_aside(world, caplog):
    """Neither a cut file nor another version's command stops the sweep; drafts are no commands."""
    world.send("pause")
    (whole,) = world.inbox.folder.iterdir()
    text = whole.read_text()
    whole.write_text(text[:20])
    (world.inbox.folder / "later.json").write_text(text.replace("pause", "explode"))
    (world.inbox.folder / ".draft.json").write_text(text)
    assert world.run([make_trial()]).succeeded
    assert sorted(p.suffix for p in world.inbox.folder.iterdir()) == [".json", ".unread", ".unread"]
    assert "is no command that this version knows" in caplog.text
    assert world.answers() == []


def test_a_command_under_another_name_is_set_aside(world, caplog):
    """Else it would lie there for ever, and be counted as waiting."""
    command = world.send("pause")
    (file,) = world.inbox.folder.iterdir()
    file.rename(file.with_name("copy.json"))
    assert world.inbox.waiting() == [] and world.inbox.num_waiting == 0
    assert "copy.json is not carried out: it is no command that this version" in caplog.text
    assert f"it says that it is {command.id}" in caplog.text


def test_a_command_that_cannot_be_read_now_is_read_later(world, caplog):
    """It is not lost, and the log is told of it once."""
    command = world.send("pause")
    (file,) = world.inbox.folder.iterdir()
    file.rename(file.with_suffix(".kept"))
    file.mkdir()  # reading it is an OSError, for the superuser too
    assert world.inbox.waiting() == world.inbox.waiting() == []
    assert caplog.text.count("is not carried out") == 1
    file.rmdir()
    file.with_suffix(".kept").rename(file)
    assert world.inbox.waiting() == [command]


def test_a_trial_that_left_the_sweep_is_not_missed(world):
    """A command may be older than the sweep's file."""
    world.send("cancel", make_trial(seed=5))
    assert world.run([make_trial()]).succeeded
    assert world.answers() == ["Nothing to cancel: there is no such trial."]


def test_a_command_that_was_carried_out_before_a_crash_is_only_removed(world):
    """The journal knows it, though its file is still there."""
    trials = make_lineage(num_rounds=2)
    command = world.send("cancel", trials[1])
    world.run(trials)
    world.send("retry", trials[1])
    world.inbox.put(command)
    assert world.run(trials).succeeded
    assert len(world.answers()) == 2 and world.inbox.waiting() == []


def test_the_executor_of_the_tests_forgets_a_cancelled_attempt(world):
    """It has no outcome, as the contract wants."""
    trial = make_trial()
    executor = SimulatedExecutor(FakeClock(), world.store.uri, [trial])
    from tests.orchestrator.factories import make_request

    executor.submit(make_request(world.store.uri, trial, "a1"))
    executor.cancel(trial.key)
    assert executor.wait(10) == []
