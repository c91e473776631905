"""Whatever is sent to a sweep and whenever its driver dies: what a naive model says."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections import Counter
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import steering
from orchestrator.inbox import Command, Inbox
from orchestrator.journal import Journal
from orchestrator.steering import given_up
from search_spaces.contracts import FailureClass, TrialState
from tests.orchestrator.dags import dags
from tests.orchestrator.factories import make_dag
from tests.orchestrator.simulated import FakeClock, Killed
from tests.orchestrator.steered import SteeredWorld

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
