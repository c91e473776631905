"""The graph of a sweep."""

from __future__ import annotations

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.graph import (
    CycleError,
    DuplicateTrialError,
    GraphError,
    MissingParentError,
    TrialGraph,
)
from search_spaces.trial import Trial
from tests.orchestrator.dags import as_networkx, dags
from tests.orchestrator.factories import make_dag, make_lineage, make_trial


@given(dags(), st.randoms(use_true_random=False))
def test_edges_and_descendants_are_those_of_networkx(choices, random):
    """Parents, children and descendants equal an independent library's, in any order of input."""
    trials = make_dag(choices)
    reference = as_networkx(trials)
    random.shuffle(trials)
    graph = TrialGraph(trials)
    assert list(graph) == [trial.key for trial in trials]
    for key in graph:
        assert set(graph.parents(key)) == set(reference.predecessors(key))
        assert set(graph.children(key)) == set(reference.successors(key))
        assert set(graph.descendants(key)) == networkx.descendants(reference, key)
        assert len(graph.descendants(key)) == len(set(graph.descendants(key)))


@given(dags(), st.randoms(use_true_random=False))
def test_parents_come_first_in_the_topological_order(choices, random):
    """The order is a permutation of the keys in which no trial precedes its parent."""
    trials = make_dag(choices)
    random.shuffle(trials)
    order = TrialGraph(trials).topological_order()
    place = {key: index for index, key in enumerate(order)}
    assert len(place) == len(trials)
    assert all(place[parent] < place[t.key] for t in trials for parent in t.spec.parents)


@given(dags())
def test_growing_equals_building(choices):
    """Adding trials one by one gives the graph of all of them."""
    trials = make_dag(choices)
    whole, grown = TrialGraph(trials), TrialGraph()
    assert [grown.add(trial) for trial in trials] == list(whole)
    assert grown.topological_order() == whole.topological_order()
    assert all(grown.children(key) == whole.children(key) for key in whole)


def test_a_missing_parent_is_named():
    """A trial whose parent is absent is refused, when built and when added."""
    parent, child = make_lineage(num_rounds=2)
    with pytest.raises(MissingParentError, match=f"round:toy:imp:r1.*needs.*{parent.key[:10]}"):
        TrialGraph([child])
    graph = TrialGraph()
    with pytest.raises(MissingParentError, match="not among the trials"):
        graph.add(child)
    assert len(graph) == 0


def test_one_trial_twice_is_refused():
    """Equal trials must have been merged before."""
    trial = make_trial()
    with pytest.raises(DuplicateTrialError, match="given twice"):
        TrialGraph([trial, trial])
    with pytest.raises(DuplicateTrialError, match="given twice"):
        TrialGraph([trial]).add(trial)


class Renamed(Trial):
    """A trial with a chosen key: hashes of content cannot be made to form a circle."""

    name: str

    @property
    def key(self) -> str:
        return self.name


def test_a_circle_is_refused():
    """Trials that wait for each other are named; what does not wait for them is not."""
    plain = [make_trial(seed=1, parent="b"), make_trial(seed=2, parent="a"), make_trial(seed=3)]
    trials = [
        Renamed(name=name, spec=t.spec, roles=t.roles) for name, t in zip("abc", plain, strict=True)
    ]
    with pytest.raises(
        CycleError, match=r"2 trials wait for each other in a circle.*: a, b"
    ) as got:
        TrialGraph(trials)
    assert isinstance(got.value, GraphError)
