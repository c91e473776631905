"""Any graph, any fates, any commands, any crashes: a sweep keeps its laws and comes to its end.

``TICKETS_CASES`` is the number of cases; ``make chaos`` tries thousands.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.journal import Journal
from orchestrator.retries import DEFAULT_BUDGETS
from search_spaces.contracts import Compute, Outcome, TrialState
from search_spaces.trial import Trial
from tests.orchestrator.dags import dags
from tests.orchestrator.erratic import Erratic
from tests.orchestrator.factories import finish, make_dag
from tests.orchestrator.simulated import FakeClock, Killed
from tests.orchestrator.steered import SteeredWorld

NUM_CASES = int(os.environ.get("TICKETS_CASES", "50"))
MAX_ROUNDS = 3000  # of the driver's loop: far more than eight trials need with all their waits
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
VERBS = ("pause", "resume", "cancel", "retry", "stop", "retry all")

COMMANDS = st.dictionaries(
    st.integers(1, 40), st.tuples(st.sampled_from(VERBS), st.integers(0, 11)), max_size=4
)
RUNS = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(1, 120)), COMMANDS, st.booleans()), max_size=4
)
RANKS = st.lists(st.sampled_from([1, 1, 2, 4]), min_size=8, max_size=8)  # of each trial's gang


class Sweep:
    """One sweep over several runs, and what a naive onlooker knows of it."""

    def __init__(
        self,
        folder: str,
        trials: list[Trial],
        seed: int,
        num_slots: int,
        ranks: list[int],
    ) -> None:
        self.world, self.trials = SteeredWorld(folder), trials
        self.parents = {trial.key: set(trial.waits_for) for trial in trials}
        self.rng, self.num_slots = random.Random(seed), num_slots
        self.ranks = {
            trial.key: min(size, num_slots) for trial, size in zip(trials, ranks, strict=False)
        }
        self.ghosts: list[Outcome] = []
        self.committed: dict[str, str] = {}  # the attempt that counts, by trial
        self.foreign: set[tuple[str, str]] = set()  # committed by somebody else
        self.submitted: set[tuple[str, str]] = set()
        self.num_retries = 0

    def run(
        self,
        kill_at_look: int | None,
        commands: dict[int, tuple[str, int]],
        is_calm: bool = False,
    ) -> bool:
        """Drive the sweep; return whether it came to its end without a crash."""
        rounds = 0

        def check() -> None:
            nonlocal rounds
            rounds += 1
            assert rounds < MAX_ROUNDS, "it goes on for ever"
            self.world.executor.is_calm = is_calm
            self.look()
            if rounds in commands:
                self.send(*commands[rounds])
            if rounds == 60:  # whoever paused it
                self.world.send("resume")

        before, self.num_retries = dict(self.committed), 0
        try:
            outcome = self.world.run(
                self.trials,
                FakeClock(kill_at_look),
                executor=Erratic,
                check=check,
                num_slots=self.num_slots,
                ranks=self.ranks,
                compute_for=lambda trial: Compute(num_ranks=self.ranks[trial.key]),
                rng=self.rng,
                ghosts=self.ghosts,
                parents=self.parents,
            )
        except Killed:
            return False
        finally:
            self.look()
            self.check_attempts(before)
        self.check_states(outcome.cancelled)
        return True

    def look(self) -> None:
        """Nothing that was committed is gone or changed; then learn what is new."""
        now = {r.result.trial_key: r.result.attempt for r in self.world.store.records()}
        assert {key: now.get(key) for key in self.committed} == self.committed
        self.committed = now
        self.world.executor.committed = set(now)

    def send(self, verb: str, number: int) -> None:
        trial = self.trials[number % len(self.trials)]
        self.num_retries += verb.startswith("retry")
        if verb == "retry all":
            self.world.send("retry", everything=True)
        else:
            self.world.send(verb, *([trial] if verb in ("cancel", "retry") else []))

    def zombie(self) -> None:
        """An attempt that nobody knows of commits a trial, or finds it done."""
        trial, attempt = self.rng.choice(self.trials), f"z{len(self.foreign):04d}"
        result = finish(self.world.store.uri, trial, attempt, score=0.1)
        is_first = trial.key not in self.committed
        assert self.world.store.commit(result, trial.spec) == is_first
        self.foreign |= {(trial.key, attempt)} if is_first else set()
        self.committed.setdefault(trial.key, attempt)

    def check_attempts(self, before: dict[str, str]) -> None:
        """No name twice, no more slots and retries than there are, and no ghost counts."""
        executor = self.world.executor
        fresh = set(executor.submitted)
        assert len(fresh) == len(executor.submitted) and not fresh & self.submitted
        assert not before.keys() & {key for key, _ in fresh}
        assert executor.max_running <= executor.max_ranks <= self.num_slots
        self.submitted |= fresh
        for (_, failure), num in executor.failures.items():
            allowed = DEFAULT_BUDGETS.get(failure, 0) + 1
            assert num <= allowed * (1 + self.num_retries), failure
        assert self.committed.items() - before.items() <= executor.well | self.foreign

    def check_states(self, was_stopped: bool) -> None:
        """Store, journal and graph tell the same story."""
        states = self.world.states()
        failed = {key for key, _ in self.world.executor.failures}
        for key, state in states.items():
            above = {states[parent] for parent in self.parents[key]}
            assert (state is TrialState.SUCCEEDED) == (key in self.committed)
            assert state.is_finished
            assert state is not TrialState.FAILED or key in failed
            if state is TrialState.BLOCKED:
                assert above - {TrialState.SUCCEEDED}
            elif state is TrialState.SUCCEEDED and (key, self.committed[key]) not in self.foreign:
                assert above <= {TrialState.SUCCEEDED}
        if not was_stopped:
            dead = {TrialState.FAILED, TrialState.BLOCKED, TrialState.CANCELLED}
            assert all(
                states[key] in dead
                for key in states
                if key not in self.committed and any(states[p] in dead for p in self.parents[key])
            )


@settings(max_examples=NUM_CASES, deadline=None)
@given(dags(max_size=8), RUNS, st.integers(1, 5), RANKS, st.integers(0, 2**32))
def test_any_sweep_keeps_its_laws_and_ends(
    choices: list[list[int]],
    runs: list[tuple[int | None, dict[int, tuple[str, int]], bool]],
    num_slots: int,
    ranks: list[int],
    seed: int,
) -> None:
    """After any history a calm run, in which everything is tried again, commits each trial once.

    Gangs are of several sizes: a large one gets its place among small ones, or it would not end.
    """
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        sweep = Sweep(folder, make_dag(choices), seed, num_slots, ranks)
        for kill_at_look, commands, has_zombie in runs:
            if has_zombie:
                sweep.zombie()
            sweep.run(kill_at_look, commands)
        sweep.world.send("resume")
        sweep.world.send("retry", *sweep.trials)
        sweep.run(None, {}, is_calm=True)  # it may find a stop that a crash left in the inbox
        assert sweep.run(None, {}, is_calm=True)
        assert sweep.committed.keys() == sweep.parents.keys()
        with Journal.read_only(sweep.world.journal_path) as reader:
            done = Counter(e.key for e in reader.events() if e.kind in ("succeeded", "reused"))
        assert done == dict.fromkeys(sweep.parents, 1)
