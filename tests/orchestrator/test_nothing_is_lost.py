"""Done trials are never run again, whatever dies: any sequence of mishaps against a naive model."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.journal import Journal
from search_spaces.contracts import FailureClass, TrialState
from search_spaces.trial import Trial
from tests.orchestrator.factories import finish, make_lineage, make_trial
from tests.orchestrator.simulated import FakeClock, Killed
from tests.orchestrator.world import World

TRIALS = [*make_lineage(seed=1, num_rounds=3), make_trial(seed=2, prunes=(100,))]
MISHAPS = st.one_of(
    st.tuples(st.just("killed"), st.integers(1, 60)),  # run, and die at a look at the clock
    st.tuples(st.just("failing"), st.integers(0, 3)),  # run while one trial's node is broken
    st.tuples(st.just("journal lost"), st.just(0)),
    st.tuples(st.just("journal cut"), st.integers(1, 9000)),
    st.tuples(st.just("wal cut"), st.integers(0, 9000)),
    st.tuples(st.just("zombie"), st.integers(0, 3)),  # a late attempt commits one trial
)


class Model:
    """What must be true: which attempt of each trial was committed first, and what ran after."""

    def __init__(self, folder: str) -> None:
        self.world = World(folder)
        self.committed: dict[str, str] = {}
        self.submitted: set[tuple[str, str]] = set()

    def check(self) -> None:
        """Nothing that was committed is gone or changed; then learn what is new."""
        store = self.world.store
        now = {r.result.trial_key: r.result.attempt for r in store.records()}
        assert {key: now.get(key) for key in self.committed} == self.committed
        self.committed = now

    def run(self, kill_at_look: int | None, rng: random.Random, broken: str = "") -> bool:
        """Run the sweep; return whether it came to its end."""
        done = set(self.committed)
        failure = FailureClass.USER_ERROR
        try:
            self.world.run(
                TRIALS,
                FakeClock(kill_at_look),
                rng=rng,
                fail=lambda request: failure if request.spec.key == broken else None,
            )
        except Killed:
            return False
        finally:
            fresh = set(self.world.executor.submitted)
            assert not done & {key for key, _ in fresh}, "a committed trial ran again"
            assert not self.submitted & fresh, "an attempt's name came again"
            self.submitted |= fresh
            self.check()
        return True

    def zombie(self, trial: Trial, number: int) -> None:
        store = self.world.store
        result = finish(store.uri, trial, f"z{number:04d}", score=0.1)
        assert store.commit(result, trial.spec) == (trial.key not in self.committed)
        self.check()


def shorten(path: Path, num_bytes: int) -> None:
    if path.exists():
        data = path.read_bytes()
        path.write_bytes(data[: max(0, len(data) - num_bytes)])


@settings(max_examples=15, deadline=None)
@given(st.lists(MISHAPS, min_size=1, max_size=6), st.integers(0, 2**16))
def test_nothing_committed_is_lost_or_run_twice(mishaps: list[tuple[str, int]], seed: int) -> None:
    """After any mishaps a last run ends well, and journal and store agree."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        model = Model(folder)
        journal = model.world.journal_path
        for number, (kind, value) in enumerate(mishaps):
            if kind == "killed":
                model.run(value, rng)
            elif kind == "failing":
                model.run(None, rng, broken=TRIALS[value].key)
            elif kind == "journal lost":
                for file in journal.parent.glob(f"{journal.name}*"):
                    file.unlink()
            elif kind == "zombie":
                model.zombie(TRIALS[value], number)
            else:
                ending = "-wal" if kind == "wal cut" else ""
                shorten(journal.with_name(journal.name + ending), value)
        assert model.run(None, rng)
        assert set(model.committed) == {trial.key for trial in TRIALS}
        with Journal.read_only(journal) as reader:
            assert {row.state for row in reader.trials()} == {TrialState.SUCCEEDED}
