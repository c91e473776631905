"""Any small graph, and the same one in an independent library."""

from __future__ import annotations

import networkx
from hypothesis import strategies as st

from search_spaces.trial import Trial


@st.composite
def dags(draw: st.DrawFn, max_size: int = 12) -> list[list[int]]:
    """Parents (at most two, earlier) of every node."""
    size = draw(st.integers(1, max_size))
    return [
        draw(st.lists(st.integers(0, index - 1), max_size=2, unique=True)) if index else []
        for index in range(size)
    ]


def as_networkx(trials: list[Trial]) -> networkx.DiGraph:
    reference = networkx.DiGraph()
    reference.add_nodes_from(trial.key for trial in trials)
    reference.add_edges_from(
        (parent, trial.key) for trial in trials for parent in trial.spec.parents
    )
    return reference
