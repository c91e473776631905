"""The loop that drives a sweep, on a simulated clock with a real store and journal."""

from __future__ import annotations

import itertools
import random
import signal
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ctrl_c import CtrlC
from orchestrator.driver import run_sweep
from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, SweepInfo
from orchestrator.listeners import ListenerGroup, SilentListener
from orchestrator.policies import Add, LadderPolicy, Skip
from orchestrator.retries import DEFAULT_BUDGETS, DEFAULT_RULES
from orchestrator.returned import new_attempt
from orchestrator.store import Store
from search_spaces.contracts import FailureClass, TrialState
from search_spaces.errors import UserError
from tests.orchestrator.factories import (
    finish,
    make_dag,
    make_lineage,
    make_request,
    make_trial,
)
from tests.orchestrator.simulated import FakeClock, Killed, SimulatedExecutor
from tests.orchestrator.test_graph import dags

SWEEP = SweepInfo(name="toy", sweep_hash="h", spec_yaml="")


class Diary(SilentListener):
    """Writes down what it is told."""

    def __init__(self):
        self.lines = []
        self.num_progress = 0

    def started(self, trial, attempt):
        self.lines.append(("started", trial.key))

    def succeeded(self, trial, result):
        self.lines.append(("succeeded", trial.key))

    def reused(self, trial, result):
        self.lines.append(("reused", trial.key))

    def failed(self, trial, failed, will_retry):
        self.lines.append(("retry" if will_retry else "failed", trial.key))

    def blocked(self, trial, cause):
        self.lines.append(("blocked", trial.key))

    def progress(self, progress):
        self.num_progress += len(progress)

    def finished(self, outcome):
        self.lines.append(("finished", outcome))

    def of(self, kind):
        return [key for what, key in self.lines if what == kind]


class World:
    """A folder with a store and a journal, in which sweeps are run one after another."""

    def __init__(self, folder):
        self.store = Store(f"{folder}/store")
        self.journal_path = Path(folder) / "journal.db"
        self.diary = Diary()
        self.executor = None

    def run(
        self,
        trials,
        clock=None,
        policy=None,
        request=make_request,
        executor=SimulatedExecutor,
        later=(),
        check=lambda: None,
        **options,
    ):
        clock = clock or FakeClock()
        self.executor = executor(clock, self.store.uri, [*trials, *later], **options)
        with Journal.open(self.journal_path, SWEEP, now=0.0) as journal:
            return run_sweep(
                trials,
                self.store,
                journal,
                self.executor,
                policy or LadderPolicy(),
                DEFAULT_BUDGETS,
                ListenerGroup([self.diary]),
                clock,
                partial(request, self.store.uri),
                check,
            )

    @property
    def submitted(self):
        return [key for key, _ in self.executor.submitted]

    def rows(self):
        with Journal.read_only(self.journal_path) as reader:
            return {row.key: row for row in reader.trials()}

    def events(self):
        with Journal.read_only(self.journal_path) as reader:
            return reader.events()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def assert_journal_agrees(world, trials):
    """What the journal says is what a journal made from the store alone would say."""
    before = world.rows()
    other_path = world.journal_path.with_name("other.db")
    with Journal.open(other_path, SWEEP, now=0.0) as other:
        other.rebuild(TrialGraph(trials), world.store, now=0.0)
        for row in other.trials():
            assert row.state is before[row.key].state
            assert (row.label, row.seconds) == (before[row.key].label, before[row.key].seconds)


@settings(max_examples=12, deadline=None)
@given(dags(max_size=8), st.integers(1, 3), st.integers(0, 2**16))
def test_a_sweep_runs_every_trial_once(choices, num_slots, seed):
    """All trials are committed, each by one attempt, after its parents, within the slots."""
    trials = make_dag(choices)
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder)
        outcome = world.run(trials, num_slots=num_slots, rng=random.Random(seed))
        assert outcome.succeeded and not outcome.cancelled
        assert sorted(world.submitted) == sorted(trial.key for trial in trials)
        assert world.executor.max_running <= num_slots
        seen, parents = set(), {trial.key: trial.spec.parents for trial in trials}
        for kind, key in world.diary.lines[:-1]:
            if kind == "started":
                assert seen.issuperset(parents[key])
            elif kind == "succeeded":
                seen.add(key)
        assert all(world.store.has_outputs(t.key, t.outputs) for t in trials)
        assert world.diary.lines[-1] == ("finished", outcome)
        assert_journal_agrees(world, trials)


def test_a_finished_sweep_runs_nothing_again(world):
    """The second run reuses everything, even with a new journal."""
    trials = make_lineage(num_rounds=3)
    world.run(trials)
    world.journal_path.unlink()
    outcome = world.run(trials)
    assert outcome.succeeded
    assert world.submitted == []
    assert world.diary.of("reused") == [trial.key for trial in trials]
    assert world.executor.num_closes == 1


@settings(max_examples=15, deadline=None)
@given(
    dags(max_size=5),
    st.integers(1, 3),
    st.integers(0, 2**16),
    st.lists(st.integers(1, 60), min_size=1, max_size=3),
)
def test_whenever_it_is_killed_nothing_committed_runs_twice(choices, num_slots, seed, kills):
    """Killed at any look at the clock, some times over, a sweep goes on where it stopped."""
    trials = make_dag(choices)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder)
        attempts = []
        for kill_at_look in [*kills, None]:
            committed = {t.key for t in trials if world.store.read(t.key)}
            clock = FakeClock(kill_at_look)
            try:
                outcome = world.run(trials, clock, num_slots=num_slots, rng=rng)
            except Killed:
                outcome = None
            assert not committed & set(world.submitted)
            attempts += world.executor.submitted
        assert outcome.succeeded
        assert len(set(attempts)) == len(attempts)
        assert_journal_agrees(world, trials)


def test_infrastructure_failures_are_tried_again_later(world):
    """A node that dies twice costs two back-offs; other trials go on meanwhile."""
    unlucky, other = make_trial(seed=1), make_trial(seed=2)
    left = Counter({unlucky.key: 2})

    def fail(request):
        left[request.spec.key] -= 1
        return FailureClass.INFRASTRUCTURE if left[request.spec.key] >= 0 else None

    assert world.run([unlucky, other], fail=fail, num_slots=1).succeeded
    assert world.submitted == [unlucky.key, other.key, unlucky.key, unlucky.key]
    starts = world.executor.started_at
    shortest_s = DEFAULT_RULES.base_s * (1 - DEFAULT_RULES.jitter)
    assert starts[2] - starts[0] >= shortest_s
    assert starts[3] - starts[2] >= 2 * shortest_s
    assert world.diary.of("retry") == [unlucky.key] * 2
    assert world.rows()[unlucky.key].attempts == 3
    numbers = [attempt[:6] for key, attempt in world.executor.submitted if key == unlucky.key]
    assert numbers == ["a0001-", "a0002-", "a0003-"]


class Patient(SimulatedExecutor):
    """Wants to be waited for while it has no free slot."""

    def wait(self, timeout_s):
        assert timeout_s > 0 or len(self._running) < self.num_slots, "the loop spins"
        return super().wait(timeout_s)


def test_a_retry_that_is_due_while_no_slot_is_free_does_not_spin(world):
    """The loop waits for the slot instead of asking again and again."""
    trials = [make_trial(seed=seed) for seed in range(20)]
    left = Counter({trials[0].key: 1})

    def fail(request):
        left[request.spec.key] -= 1
        return FailureClass.INFRASTRUCTURE if left[request.spec.key] >= 0 else None

    options = {"num_slots": 1, "rng": random.Random(3), "executor": Patient}
    assert world.run(trials, fail=fail, **options).succeeded
    assert world.submitted.count(trials[0].key) == 2 and world.submitted[-1] != trials[0].key


def test_one_broken_lineage_does_not_stop_the_others(world):
    """What waits for the failed trial is blocked with the cause; everything else succeeds."""
    broken, fine = make_lineage(1, 4), make_lineage(2, 4)
    outcome = world.run(
        [*broken, *fine],
        fail=lambda r: FailureClass.USER_ERROR if r.spec.key == broken[1].key else None,
    )
    assert not outcome.succeeded
    assert outcome.counts[TrialState.SUCCEEDED] == 5
    assert list(outcome.failures) == [broken[1].key]
    assert outcome.failures[broken[1].key].message == "it broke"
    assert world.diary.of("blocked") == [broken[2].key, broken[3].key]
    row = world.rows()[broken[3].key]
    assert row.state is TrialState.BLOCKED
    assert row.message == "round:toy:imp:r1:0.1:s1 failed: it broke"
    assert world.run([*broken, *fine]).succeeded


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


def test_the_executor_is_closed_whatever_happens(world):
    """Also when the trials are no graph."""
    with pytest.raises(ValueError, match="given twice"):
        world.run([make_trial(), make_trial()])
    assert world.executor.num_closes == 1


def test_a_store_that_cannot_be_written_is_found_before_anything_runs(tmp_path):
    """No trial is trained for a result that cannot be kept."""
    world = World(tmp_path)
    (tmp_path / "store").write_text("a file")  # since the store was opened
    with pytest.raises(UserError, match="cannot be written"):
        world.run([make_trial()])
    assert world.submitted == []


def test_another_sweeps_result_counts(world):
    """A result that another sweep commits while ours runs is used, and our scores are dropped."""
    trial = make_trial(prunes=(100,))

    def other_commits(request):
        world.store.commit(finish(world.store.uri, trial, "other", score=0.1), trial.spec)

    scores = []
    world.diary.succeeded = lambda trial, result: scores.append(result.primary("select"))
    assert world.run([trial], fail=other_commits).succeeded
    assert scores == [0.1]
    assert world.store.read(trial.key).attempt == "other"


def test_a_trial_that_another_sweep_finished_is_not_started(world):
    """The store is asked once more before an attempt begins."""
    first, second = make_lineage(num_rounds=2)

    def other_commits(request):
        world.store.commit(finish(world.store.uri, second, "other"), second.spec)

    assert world.run([first, second], fail=other_commits).succeeded
    assert world.submitted == [first.key]
    assert world.diary.of("reused") == [second.key]
    assert world.rows()[second.key].state is TrialState.SUCCEEDED


def test_a_trial_that_a_reused_result_makes_a_policy_skip_is_not_started(world):
    """Though it was ready when the result was found in the store."""
    first, found, skipped = (make_trial(seed=seed) for seed in range(3))
    policy = Gardener(found, skipped, make_trial(seed=77))

    def other_commits(request):
        if request.spec.key == first.key:
            world.store.commit(finish(world.store.uri, found, "other"), found.spec)

    options = {"num_slots": 3, "later": [policy.add], "fail": other_commits}
    trials = [first, *(one.model_copy(update={"after": (first.key,)}) for one in (found, skipped))]
    outcome = world.run(trials, policy=policy, **options)
    assert outcome.succeeded and outcome.counts[TrialState.SKIPPED] == 1
    assert world.submitted == [first.key, policy.add.key]


class Damaging(SimulatedExecutor):
    """Its first attempt leaves a cut mask, its second none at all."""

    def _end(self, request):
        outcome = super()._end(request)
        name = next(iter(outcome.result.artifacts))
        if len(self.submitted) == 1:
            (Path(request.attempt_uri) / name).write_bytes(b"")
        elif len(self.submitted) == 2:
            result = outcome.result.model_copy(update={"artifacts": {}})
            outcome = outcome.model_copy(update={"result": result})
        return outcome


def test_attempts_that_leave_no_whole_mask_have_failed(world):
    """A damaged and a forgotten mask are named and retried; the third attempt counts."""
    trial = make_trial(prunes=(100,))
    assert world.run([trial], executor=Damaging).succeeded
    failed = [event.payload for event in world.events() if event.kind == "failed"]
    assert [payload["failure"] for payload in failed] == ["infrastructure", "error"]
    assert "mask-global-magnitude-100.arrow has 0 bytes" in failed[0]["message"]
    assert failed[1]["message"] == (
        "The attempt ended well, but left no mask-global-magnitude-100.arrow."
    )
    assert world.store.has_outputs(trial.key, trial.outputs)


def test_no_credential_of_the_store_reaches_journal_or_display(world):
    """Messages of a store's errors name its URI."""

    def request(uri, trial, attempt):
        raise UserError("The store s3://key:secret@bucket/runs has no file of the given mask.")

    outcome = world.run([make_trial()], request=request)
    (cause,) = outcome.failures.values()
    assert cause.message == "The store s3://***@bucket/runs has no file of the given mask."
    assert "secret" not in repr(world.events()) + repr(world.rows())


def test_a_request_that_cannot_be_made_fails_its_trial(world):
    """A user error is the trial's failure, not the sweep's."""
    good, bad = make_trial(seed=1), make_trial(seed=2)

    def request(uri, trial, attempt):
        if trial.key == bad.key:
            raise UserError("no model at ./nowhere")
        return make_request(uri, trial, attempt)

    outcome = world.run([bad, good], request=request)
    assert outcome.counts[TrialState.SUCCEEDED] == 1
    assert outcome.failures[bad.key].message == "no model at ./nowhere"
    assert outcome.failures[bad.key].failure is FailureClass.USER_ERROR


class Gardener:
    """Skips the rest of one lineage and adds one trial, once a given trial is in."""

    def __init__(self, trigger, skip, add):
        self.trigger, self.skip, self.add = trigger, skip, add

    def on_result(self, graph, scheduler, trial, result):
        if trial.key != self.trigger.key:
            return []
        add = Add(self.add, "one more") if self.add.key not in graph else None
        pending = scheduler.state(self.skip.key) is TrialState.PENDING
        skip = Skip(self.skip.key, "lost twice") if pending else None
        return [event for event in (add, skip) if event]


def test_a_policys_events_are_journaled_and_replayed(world):
    """Trials are added and skipped with a reason; a later run comes to the same states."""
    lineage, extra = make_lineage(num_rounds=3), make_trial(seed=77)
    policy = Gardener(lineage[0], lineage[1], extra)
    for submitted in ([lineage[0].key, extra.key], []):
        outcome = world.run(lineage, policy=policy, later=[extra])
        assert outcome.succeeded
        assert outcome.counts[TrialState.SKIPPED] == 2
        assert world.submitted == submitted
        rows = world.rows()
        assert rows[extra.key].state is TrialState.SUCCEEDED
        assert rows[lineage[2].key].message == "lost twice"
    kinds = Counter(event.kind for event in world.events())
    assert kinds["added"] == 2 and kinds["skipped"] == 4


def test_a_trial_added_below_a_failed_one_is_blocked(world):
    """The journal says so with the failure's message, and the sweep ends."""
    (broken, child), fine = make_lineage(1, 2), make_trial(seed=2)
    policy = Gardener(fine, skip=broken, add=child)
    fail = {broken.key: FailureClass.USER_ERROR}
    outcome = world.run(
        [broken, fine],
        policy=policy,
        later=[child],
        num_slots=1,
        fail=lambda request: fail.get(request.spec.key),
    )
    assert outcome.counts[TrialState.BLOCKED] == 1
    row = world.rows()[child.key]
    assert (row.state, row.message) == (TrialState.BLOCKED, "it broke")


def test_life_is_shown_while_trials_run(world):
    """Progress reaches the listener and heartbeats reach the journal."""
    world.run(make_lineage(num_rounds=4), num_slots=1, rng=random.Random(3))
    assert world.diary.num_progress > 0
    with Journal.read_only(world.journal_path) as reader:
        assert float(reader.meta()["heartbeat"]) >= 1000


def test_attempt_names_sort_and_never_repeat():
    """Number first, random tail: no two attempts share a folder, not even after a lost journal."""
    assert new_attempt(2) < new_attempt(10)
    assert len({new_attempt(1) for _ in range(100)}) == 100


def test_checkpoints_of_finished_trials_are_deleted(world):
    """A driver that died between commit and deletion left one; the next run deletes it."""
    first, second = make_trial(seed=0), make_trial(seed=1)
    world.run([first])
    places = [Path(world.store.uri, "results", t.key, "checkpoint") for t in (first, second)]
    for place in places:
        place.mkdir(parents=True)
        (place / "MANIFEST.json").write_text("{}")
    assert world.run([first, second]).succeeded
    assert not any(place.exists() for place in places)
