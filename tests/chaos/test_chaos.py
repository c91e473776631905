"""Three kills in one real sweep: as ``make chaos`` does to twenty, in the time of a fast test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.schedules import Fault, Schedule
from tests.chaos.world import world

THREE = Schedule(
    seed=1000,  # none of those of `make chaos`
    faults=(
        Fault("rank", num_events=1, delay_s=0.3, outage_s=0, pick=1),
        Fault("mlflow", num_events=0, delay_s=0.1, outage_s=0.5, pick=0),
        Fault("driver", num_events=2, delay_s=0.1, outage_s=0, pick=0),
    ),
)


@pytest.mark.ray
def test_a_sweep_survives_the_loss_of_rank_server_and_driver(tmp_path: Path) -> None:
    """No trial is lost or run twice without reason; all is equal to an undisturbed sweep."""
    with world(tmp_path) as shared:
        endured, verdict = shared.endure(THREE)
    assert endured is not None and verdict.is_good, verdict.text
    assert [hit.fault.kind for hit in endured.hits] == ["rank", "mlflow", "driver"]
    assert endured.codes[0] < 0 and endured.codes[-1] == 0
