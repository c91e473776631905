"""Commands to a sweep: each is carried out once, whatever dies, and the journal remembers."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import steering
from orchestrator.graph import TrialGraph
from orchestrator.inbox import Command, Inbox
from orchestrator.journal import Journal
from orchestrator.listeners import SilentListener
from orchestrator.retries import DEFAULT_BUDGETS
from orchestrator.steered_scheduler import SteeredScheduler
from orchestrator.steering import STILL_PAUSED, given_up
from search_spaces.contracts import FailureClass, TrialState
from tests.orchestrator.factories import make_dag, make_lineage, make_trial
from tests.orchestrator.simulated import FakeClock, Killed, SimulatedExecutor
from tests.orchestrator.test_graph import dags
from tests.orchestrator.world import World


class Told(SilentListener):
    """Writes down what people are told."""

    def __init__(self):
        self.said = []

    def steered(self, text):
        self.said.append(text)


class SteeredWorld(World):
    """A world whose sweeps are sent commands, some of them while they run."""

    def __init__(self, folder):
        super().__init__(folder)
        self.diary = self.told = Told()
        self.inbox = Inbox(self.journal_path)

    def send(self, verb, *trials, everything=False):
        command = Command.new(verb, tuple(trial.key for trial in trials), everything)
        self.inbox.put(command)
        return command

    def answers(self):
        return [e.payload["text"] for e in self.events() if e.kind == "command"]

    def states(self):
        return {key: row.state for key, row in self.rows().items()}


@pytest.fixture
def world(tmp_path: Path) -> SteeredWorld:
    return SteeredWorld(tmp_path)


class At:
    """Does something at the n-th round of the driver's loop; to be its ``check``."""

    def __init__(self, **actions):
        self.round = 0
        self.actions = {int(name[1:]): action for name, action in actions.items()}

    def __call__(self):
        self.round += 1
        self.actions.get(self.round, lambda: None)()


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


# A naive model: what stands in the way of each trial, from the journal's order of events alone.


class Model:
    """Keeps of each trial that cannot run the one it is because of: itself or an ancestor."""

    def __init__(self, trials):
        self.parents = {trial.key: trial.waits_for for trial in trials}
        self.cause = {}
        self.failed, self.done = set(), set()
        self.given_up = []  # by themselves, in that order

    def state(self, key):
        if key not in self.cause:
            return TrialState.SUCCEEDED if key in self.done else TrialState.PENDING
        root = self.cause[key]
        if root not in self.failed:
            return TrialState.CANCELLED
        return TrialState.FAILED if root == key else TrialState.BLOCKED

    def fall(self, key):
        """A trial fails or is given up: what waits for it cannot run."""
        self.cause[key] = key
        for child in self.parents:  # parents first
            above = self._above(child)
            if above and child not in self.cause and child not in self.done:
                self.cause[child] = above[0]

    def restart(self):
        """A new run tries what failed, and leaves what was given up."""
        self.cause, self.failed = {}, set()
        for key in self.given_up:
            if key not in self.cause and key not in self.done:
                self.fall(key)

    def obey(self, command):
        if command.verb == "cancel":
            for key in command.keys:
                if key not in self.done and key not in self.cause:
                    self.given_up.append(key)
                    self.fall(key)
        elif command.verb == "retry":
            keys = self.failed if command.everything else set(command.keys)
            self._reopen({k for k in keys if self.state(k) in ("FAILED", "CANCELLED")})

    def _reopen(self, roots):
        reached = {k: c for k, c in self.cause.items() if k in roots or c in roots}
        self.cause = {k: c for k, c in self.cause.items() if k not in reached}
        for key in (key for key in self.parents if key in reached):
            if above := self._above(key):
                self.cause[key] = key if reached[key] == key else above[0]
            else:
                self.failed.discard(key)
                self.given_up = [one for one in self.given_up if one != key]

    def _above(self, key):
        return [self.cause[p] for p in self.parents[key] if p in self.cause]


commands = st.lists(
    st.tuples(
        st.integers(1, 25),
        st.sampled_from(["cancel", "retry", "retry --failed", "pause", "resume"]),
        st.lists(st.integers(0, 5), min_size=1, max_size=3),
    ),
    max_size=6,
)


class Sender:
    """Sends commands at given rounds of the driver's loop, and at last lets the sweep go on."""

    def __init__(self, world, trials, sent):
        self.world, self.trials = world, trials
        self.left = sorted(sent, key=lambda one: one[0])
        self.issued, self.round = {}, 0

    def __call__(self):
        self.round += 1
        while self.left and self.left[0][0] <= self.round:
            _, verb, places = self.left.pop(0)
            named = dict.fromkeys(self.trials[p % len(self.trials)].key for p in places)
            about = tuple(named) if verb in ("cancel", "retry") else ()
            self.put(Command.new(verb.split()[0], about, everything="--failed" in verb))
        if not self.left and self.round > 60 and not self.world.inbox.waiting():
            self.put(Command.new("resume"))

    def put(self, command):
        self.issued[command.id] = command
        self.world.inbox.put(command)


@contextmanager
def killing_inbox(kill_at_removal):
    """The driver dies before its n-th removal of a command, which the journal has by then."""
    removals = itertools.count(1)

    class KillingInbox(Inbox):
        def remove(self, command_id):
            if next(removals) == kill_at_removal:
                raise Killed
            return super().remove(command_id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steering, "Inbox", KillingInbox)
        yield


@settings(max_examples=40, deadline=None)
@given(
    dags(max_size=6),
    commands,
    st.lists(st.tuples(st.booleans(), st.integers(1, 80)), max_size=2),
    st.integers(1, 2),
    st.sampled_from([0.0, 0.3]),
    st.integers(0, 2**16),
)
def test_whatever_is_sent_and_whenever_it_is_killed_each_command_counts_once(
    choices, sent, kills, num_slots, fail_rate, seed
):
    """The end is what a naive model says, whatever dies, and each answer is there once."""
    trials, rng = make_dag(choices), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        world = SteeredWorld(folder)
        check, starts = Sender(world, trials, sent), []
        options = {
            "num_slots": num_slots,
            "rng": rng,
            "check": check,
            "fail": lambda _: FailureClass.USER_ERROR if rng.random() < fail_rate else None,
        }
        for is_at_look, number in [*kills, (True, None)]:
            starts.append(len(world.events()) if world.journal_path.exists() else 0)
            clock = FakeClock(number if is_at_look else None)
            try:
                with killing_inbox(None if is_at_look else number % 3 + 1):
                    world.run(trials, clock, **options)
            except Killed:
                continue
        answered = Counter(e.payload["id"] for e in world.events() if e.kind == "command")
        assert set(answered.values()) <= {1}
        assert {one.id for one in world.inbox.waiting()} == set(check.issued) - set(answered)
        check_against_model(world, trials, check.issued, starts)


def check_against_model(world, trials, issued, starts):
    """Replay the journal's events through the model, and compare every state."""
    model, is_new_run = Model(trials), False
    for number, event in enumerate(world.events()):
        is_new_run |= number in starts
        if is_new_run and event.kind not in ("reused", "interrupted"):  # these come first
            model.restart()
            is_new_run = False
        if event.kind == "command":
            model.obey(issued[event.payload["id"]])
        elif event.kind in ("succeeded", "reused"):
            assert is_new_run or event.key not in model.cause, "ended well, though in its way"
            model.done.add(event.key)
        elif event.kind == "failed":
            model.failed.add(event.key)
            model.fall(event.key)
    if is_new_run or starts[-1] == len(world.events()):
        model.restart()
    assert world.states() == {key: model.state(key) for key in model.parents}
    with Journal.read_only(world.journal_path) as reader:
        assert given_up(reader) == [key for key in model.given_up if key not in model.done]


def test_the_executor_of_the_tests_forgets_a_cancelled_attempt(world):
    """It has no outcome, as the contract wants."""
    trial = make_trial()
    executor = SimulatedExecutor(FakeClock(), world.store.uri, [trial])
    from tests.orchestrator.factories import make_request

    executor.submit(make_request(world.store.uri, trial, "a1"))
    executor.cancel(trial.key)
    assert executor.wait(10) == []
