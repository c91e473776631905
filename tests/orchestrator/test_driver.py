"""The loop that drives a sweep, on a simulated clock with a real store and journal."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.journal import Journal
from orchestrator.lease import lease_path
from orchestrator.lease_record import LeaseRecord
from orchestrator.returned import new_attempt
from orchestrator.storage import Storage
from search_spaces.contracts import Compute, TrialState
from search_spaces.errors import UserError
from tests.orchestrator.dags import dags
from tests.orchestrator.factories import finish, make_dag, make_lineage, make_trial
from tests.orchestrator.simulated import FakeClock, Killed, SimulatedExecutor, naive_urgency
from tests.orchestrator.world import World, assert_journal_agrees


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


def test_no_credential_of_the_store_reaches_journal_or_display(world):
    """Messages of a store's errors name its URI."""

    def request(uri, trial, attempt):
        raise UserError("The store s3://key:secret@bucket/runs has no file of the given mask.")

    outcome = world.run([make_trial()], request=request)
    (cause,) = outcome.failures.values()
    assert cause.message == "The store s3://***@bucket/runs has no file of the given mask."
    assert "secret" not in repr(world.events()) + repr(world.rows())


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


def test_checkpoints_stay_while_another_sweep_is_driven_on_the_store(world):
    """It may train a finished trial once more, for a mask of its own; later they do go."""
    trial = make_trial(seed=0)
    world.run([trial])
    place = Path(world.store.uri, "results", trial.key, "checkpoint")
    place.mkdir(parents=True)
    (place / "MANIFEST.json").write_text("{}")
    storage = Storage(world.store.uri)
    own, path = LeaseRecord.new(60.0), lease_path("other", "h" * 64)
    storage.replace(path, own.model_copy(update={"machine": "node7 b s"}).encode())
    assert world.run([trial]).succeeded and place.exists()
    storage.replace(path, own.encode())
    assert world.run([trial]).succeeded and not place.exists()
