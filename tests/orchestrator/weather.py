"""A store that is away now and then, under a sweep on a simulated clock."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from orchestrator.retries import RetryRules
from orchestrator.storage import Storage
from tests.orchestrator.simulated import FakeClock
from tests.orchestrator.world import Diary, World


class Weather:
    """When the store is away; asked by every read and write of it."""

    def __init__(self, clock: FakeClock, away: Any) -> None:
        self.clock, self.away = clock, away
        self.num_refused = 0

    def check(self) -> None:
        if self.away(self.clock.now):
            self.num_refused += 1
            raise OSError(errno.ETIMEDOUT, "the server is busy")


class Patient(Diary):
    """Writes down the sentences too."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def steered(self, text: str) -> None:
        self.said.append(text)


def break_storage(monkeypatch: pytest.MonkeyPatch, weather: Weather) -> None:
    """Let every call of the store fail in bad weather: before it did anything, or after it did."""
    whole = Storage._explained

    @contextmanager
    def explained(self: Storage, action: str) -> Iterator[None]:
        with whole(self, action):
            weather.check()
            yield
            weather.check()

    monkeypatch.setattr(Storage, "_explained", explained)


def drive(
    world: World,
    trials: Any,
    clock: FakeClock,
    rules: RetryRules | None = None,
    policy: Any = None,
    check: Any = lambda: None,
    **options: Any,
) -> Any:
    """Run a sweep of which the sentences are written down, too."""
    world.diary = Patient()
    return world.run(trials, clock, policy, check=check, rules=rules or RetryRules(), **options)
