"""The loop that drives a sweep, on a simulated clock with a real store and journal."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.costs import trial_length
from orchestrator.journal import Journal
from orchestrator.retries import DEFAULT_RULES
from orchestrator.returned import new_attempt
from search_spaces.contracts import Compute, FailureClass, TrialState
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
from tests.orchestrator.world import World, assert_journal_agrees


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Urgent(SimulatedExecutor):
    """Knows by itself what is ready, and that nothing may go before what is more urgent."""

    def __init__(self, *arguments, parents, urgency, **options):
        super().__init__(*arguments, **options)
        self.parents, self.urgency = parents, urgency

    def submit(self, request):
        begun = {key for key, _ in self.submitted}
        done = begun - {one.spec.key for _, _, one in self._running}
        ready = [k for k in self.parents if k not in begun and self.parents[k] <= done]
        assert request.spec.key == max(ready, key=self.urgency.get)
        super().submit(request)


def naive_urgency(trials, compute_for):
    """Return each trial's longest remaining time, and its place among equals, by recursion."""

    def length(trial):
        below = [length(child) for child in trials if trial.key in child.waits_for]
        return trial_length(trial.spec, compute_for(trial)) + max(below, default=0.0)

    return {trial.key: (length(trial), -place) for place, trial in enumerate(trials)}


def test_a_large_gang_is_not_overtaken_by_small_trials(world):
    """It waits for two devices, and the third is left empty: eight small ones wait behind it."""
    first, large = (make_trial(seed=seed, train_steps=900) for seed in (1, 2))
    small = [make_trial(seed=3 + n, train_steps=1) for n in range(8)]
    trials = [*small, large, first]
    ranks = {first.key: 2, large.key: 3}
    outcome = world.run(
        trials,
        num_slots=3,
        ranks=ranks,
        compute_for=lambda trial: Compute(num_ranks=ranks.get(trial.key, 1)),
    )
    assert outcome.succeeded
    assert world.submitted == [first.key, large.key, *(trial.key for trial in small)]


@settings(max_examples=8, deadline=None)
@given(dags(max_size=9), st.lists(st.sampled_from([1, 2, 4]), min_size=9, max_size=9), st.data())
def test_the_longest_lineage_goes_first_over_gangs_of_all_sizes(choices, sizes, data):
    """No trial overtakes a more urgent one, however large its gang, and all of them run."""
    trials = make_dag(choices)
    ranks = {trial.key: size for trial, size in zip(trials, sizes, strict=False)}
    num_devices, seed = data.draw(st.integers(4, 5)), data.draw(st.integers(0, 99))

    def compute_for(trial):
        return Compute(num_ranks=ranks[trial.key])

    options = {
        "parents": {trial.key: set(trial.waits_for) for trial in trials},
        "urgency": naive_urgency(trials, compute_for),
        "rng": random.Random(seed),
    }
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder)
        outcome = world.run(
            trials,
            executor=Urgent,
            compute_for=compute_for,
            num_slots=num_devices,
            ranks=ranks,
            **options,
        )
        assert outcome.succeeded and len(world.submitted) == len(trials)
        assert world.executor.max_ranks <= num_devices


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
