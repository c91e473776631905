"""Drawing curves: where things stand on the axis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report_plots import AXIS_POINT, margin


@given(
    span=st.floats(min_value=0.01, max_value=1),
    reach_point=st.floats(min_value=1, max_value=AXIS_POINT / 4),
)
def test_what_stands_beside_the_outer_levels_stays_inside(span: float, reach_point: float) -> None:
    """The margin, drawn to the axis' scale, is as wide as what reaches into it."""
    room = margin(span, reach_point)
    points_per_unit = AXIS_POINT / (span + 2 * room)
    assert room * points_per_unit == pytest.approx(reach_point)


def test_a_single_level_has_room_too() -> None:
    """There is no scale to measure in: a little on both sides."""
    assert margin(0.0, 20.0) > 0
