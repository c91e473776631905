"""A wall clock that is set while a sweep runs changes nothing but dates."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.inbox import Command
from orchestrator.steady_clock import SteadyClock
from search_spaces.contracts import FailureClass, TrialState
from tests.orchestrator.factories import make_trial
from tests.orchestrator.simulated import FakeClock, SimulatedExecutor
from tests.orchestrator.steered import SteeredWorld

HOUR_S = 3600.0


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(-1e6, 1e6))))
def test_it_never_goes_back_nor_slower_than_time(moves: list[tuple[float, float]]) -> None:
    """Whenever the wall clock is set: as much passes as did pass, and it is not behind the wall."""
    real, wall = 0.0, 1e9
    clock = SteadyClock(lambda: wall, lambda: real)
    before = clock()
    assert before == wall
    for passed, jump in moves:
        real, wall = real + passed, wall + passed + jump
        now = clock()
        assert now >= before + passed - 1e-3 and now >= wall - 1e-3
        before = now


class SetBack(FakeClock):
    """Steady, over a wall clock that is set while the sweep runs."""

    def __init__(self, jump_s: float, after_s: float) -> None:
        super().__init__()
        self._jump_s, self._due = jump_s, self.now + after_s
        self._steady = SteadyClock(self._wall, lambda: self.now)

    def __call__(self) -> float:
        return self._steady()

    def _wall(self) -> float:
        return self.now + (self._jump_s if self.now >= self._due else 0.0)


@pytest.mark.parametrize("jump_s", [-HOUR_S, HOUR_S])
def test_a_retry_waits_no_longer_and_signs_of_life_go_on(tmp_path: Path, jump_s: float) -> None:
    """An hour back or forth: the sweep takes no longer, and its journal keeps its order."""
    world, clock = SteeredWorld(tmp_path), SetBack(jump_s, after_s=2.0)
    trials, failures = [make_trial(seed=seed) for seed in range(3)], [FailureClass.INFRASTRUCTURE]
    outcome = world.run(
        trials, clock, num_slots=1, fail=lambda request: failures.pop() if failures else None
    )
    assert outcome.succeeded
    assert clock.now - 1000.0 < 60
    times = [event.at for event in world.events()]
    assert times == sorted(times)


def test_a_stop_of_a_sender_whose_clock_is_behind_is_obeyed(tmp_path: Path) -> None:
    """What comes after a run's first look was sent to that run, whatever its date."""
    world = SteeredWorld(tmp_path)
    trials, rounds = [make_trial(seed=seed) for seed in range(5)], 0

    def check() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            command = Command.new("stop")
            world.inbox.put(command.model_copy(update={"at": -HOUR_S}))

    outcome = world.run(trials, executor=SimulatedExecutor, check=check, num_slots=1)
    assert outcome.cancelled and outcome.counts[TrialState.SUCCEEDED] < 5
