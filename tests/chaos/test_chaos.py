"""Three of ``make chaos``'s kill schedules, each on a real sweep of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.schedules import schedule_of
from tests.chaos.world import World, world


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Cluster, server, and what an undisturbed sweep came to."""
    with world(tmp_path_factory.mktemp("chaos")) as started:
        yield started


@pytest.mark.ray
@pytest.mark.parametrize(
    ("seed", "kinds"), [(2, ["raylet"]), (4, ["mlflow", "driver"]), (6, ["rank"])]
)
def test_a_sweep_survives_its_schedule(shared: World, seed: int, kinds: list[str]) -> None:
    """No trial is lost or run twice without reason; all is equal to an undisturbed sweep."""
    endured, verdict = shared.endure(schedule_of(seed))
    assert endured is not None and verdict.is_good, verdict.text
    assert [hit.fault.kind for hit in endured.hits] == kinds[: len(endured.hits)]
    assert endured.hits and endured.codes[-1] == 0
    assert (endured.codes[0] < 0) == any(hit.fault.kind == "driver" for hit in endured.hits)
