"""What Prometheus would see of a sweep: few series, and true numbers."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.listeners import SweepOutcome
from orchestrator.metrics_listener import SHOW_S, WAITING, MetricsListener
from search_spaces.contracts import Failed, FailureClass, Progress, TrialState
from tests.orchestrator.factories import make_result, make_trial


class Shown:
    """Keeps the newest value of every series."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def states(self, counts: Mapping[str, int]) -> None:
        self.values |= {f"state:{state}": num for state, num in counts.items()}

    def running(self, counts: Mapping[str, int]) -> None:
        self.values |= {f"kind:{kind}": num for kind, num in counts.items()}

    def tokens_per_s(self, value: float) -> None:
        self.values["tokens"] = value

    def waiting_s(self, value: float) -> None:
        self.values["waiting"] = value

    def mirror_lag(self, number: int) -> None:
        self.values["lag"] = number

    def retry(self, failure: str) -> None:
        self.values[failure] = self.values.get(failure, 0) + 1


class World:
    """A listener with a clock and counts that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.counts = {TrialState.RUNNING: 2, TrialState.PENDING: 3}
        self.shown = Shown()
        self.trials = [make_trial(seed=seed) for seed in (1, 2)]
        self.listener = MetricsListener(
            self.shown, self.trials, lambda: self.counts, lambda: 7, lambda: self.now
        )

    def look(self, *phases: str) -> dict[str, float]:
        """Let the driver show its progress; one phase for each running trial."""
        points = [
            Progress(trial_key=trial.key, phase=phase, step=0, num_steps=0, loss=0.0)
            for trial, phase in zip(self.trials, phases, strict=False)
        ]
        self.listener.progress(points)
        return self.shown.values


def test_states_and_kinds() -> None:
    """Every state and kind has a value, also a zero: a series keeps its last value for ever."""
    world = World()
    values = world.look("train", "train")
    kind = world.trials[0].main_role.kind
    assert values["state:RUNNING"] == 2 and values["state:FAILED"] == 0
    assert {name for name in values if name.startswith("state:")} == {
        f"state:{state.value}" for state in TrialState
    }
    assert values[f"kind:{kind}"] == 2 and values["lag"] == 7
    world.counts = {TrialState.SUCCEEDED: 5}
    world.listener.finished(SweepOutcome(world.counts, {}, False))
    assert values["state:RUNNING"] == 0 and values[f"kind:{kind}"] == 0


def test_waiting_is_the_longest_and_ends() -> None:
    """Waiting counts from the first time that an attempt was seen waiting."""
    world = World()
    assert world.look(WAITING, WAITING)["waiting"] == 0
    world.now += 4
    world.look("train", WAITING)  # not yet time to show
    world.now += 6
    assert world.look("train", WAITING)["waiting"] == 10
    world.now += SHOW_S
    assert world.look("train", "load")["waiting"] == 0


def test_speed_and_retries() -> None:
    """Speed is tokens over training seconds; only what is tried again counts as a retry."""
    world = World()
    for trial in world.trials:
        result = make_result(trial, "a")
        tokens = result.num_train_tokens / result.seconds["train"]
        world.listener.succeeded(trial, result)
    failed = Failed(
        trial_key=world.trials[0].key, attempt="a", failure=FailureClass.HANG, message="x"
    )
    world.listener.failed(world.trials[0], failed, True)
    world.listener.failed(world.trials[0], failed, False)
    values = world.look("train")
    assert values["tokens"] == tokens and values["hang"] == 1
