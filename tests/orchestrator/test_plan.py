"""Plans, estimates and the simulated wall time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.costs import (
    OVERHEAD_S,
    device_hours,
    modelled_step_s,
    trial_flops,
)
from orchestrator.graph import TrialGraph
from orchestrator.plan import make_plan
from orchestrator.simulate import simulate
from orchestrator.simulated_nodes import Host
from orchestrator.step_model import CPU_THREAD_FLOP_PER_S, CPU_UPDATE_S_PER_WEIGHT
from orchestrator.store import Store
from search_spaces.contracts import Compute
from tests.orchestrator.dags import dags
from tests.orchestrator.factories import finish, make_dag, make_lineage, make_trial


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_each_trial_has_an_action_and_a_reason(store):
    """Committed trials are reused, the next one runs, the rest waits for a named parent."""
    lineage = make_lineage(num_rounds=4)
    store.commit(finish(store.uri, lineage[0], "a0001-ff"), lineage[0].spec)
    plan = make_plan(lineage, store)
    when = store.record(lineage[0].key).committed_at
    assert [(row.action, row.reason) for row in plan.rows] == [
        ("reuse", f"committed {when[:10]} {when[11:16]}Z"),
        ("run", "no result yet"),
        ("wait", "waits for round:toy:imp:r1:0.1:s0"),
        ("wait", "waits for round:toy:imp:r2:0.2:s0"),
    ]
    assert (plan.num_run, plan.num_reuse, plan.num_wait) == (1, 1, 2)
    assert plan.num_train_steps == 3 * 10
    assert [row.kind for row in plan.rows] == ["round"] * 4


def test_a_missing_mask_is_a_reason_to_run(store):
    """A committed trial without a mask that is wanted now says which K it lacks."""
    small, large = make_trial(prunes=(100,)), make_trial(prunes=(100, 200))
    child = make_trial(parent=large.key, num_removed=200)
    store.commit(finish(store.uri, small, "a1"), small.spec)
    plan = make_plan([large, child], store)
    assert [row.reason for row in plan.rows] == [
        "committed, but mask at K=200 is missing",
        "waits for round:toy:imp:s0",
    ]
    store.commit(finish(store.uri, child, "a1"), child.spec)
    Path(store.artifact(large.key, "mask-global-magnitude-100.arrow").uri).unlink()
    plan = make_plan([large, child], store)
    assert plan.rows[0].reason == "committed, but mask at K=100, mask at K=200 is missing"
    assert plan.rows[1].action == "reuse"


def test_estimates_come_from_results_of_the_same_speed(store):
    """Median seconds per step of the same workload and place, the overhead added once."""
    done = [make_trial(seed=seed) for seed in range(3)]
    for trial, train_s in zip(done, (2.0, 4.0, 30.0), strict=True):
        result = finish(store.uri, trial, "a1", train_s=train_s, other_s=0.5)
        store.commit(result, trial.spec)
    later = make_trial(seed=9, train_steps=100)
    other_data = make_trial(seed=9, data="other")
    plan = make_plan([later, other_data], store)
    assert plan.rows[0].seconds == pytest.approx(100 * 0.4 + 0.5)
    assert plan.rows[0].basis == "measured in 3 results"
    assert plan.rows[1].basis == "modelled from FLOP: nothing measured yet"
    assert plan.bases == {plan.rows[0].basis: 1, plan.rows[1].basis: 1}
    two_threads = make_plan([later], store, lambda trial: Compute(num_threads=2))
    assert two_threads.rows[0].basis == "modelled from FLOP: nothing measured yet"


def test_another_size_is_scaled_from_what_was_measured(store):
    """Two ranks were never run: a step of one rank tells, times what the model says they save."""
    done, later = make_trial(seed=1), make_trial(seed=9, train_steps=100)
    result = finish(store.uri, done, "a1", train_s=2.0, other_s=0.5)  # ten steps
    store.commit(result, done.spec)
    two = Compute(num_ranks=2)
    row = make_plan([done, later], store, lambda trial: two).rows[1]
    assert row.basis == "scaled from 1 result on 1 rank"
    share = modelled_step_s(later.spec, two) / modelled_step_s(later.spec, Compute())
    assert row.seconds == pytest.approx(100 * 0.2 * share + 0.5)


def test_the_model_counts_six_flop_for_each_weight_and_token(store):
    """1000 weights x 4 examples x 16 positions x 0.3 real tokens x 6 FLOP, for 10 steps."""
    trial = make_trial()
    assert trial_flops(trial.spec) == pytest.approx(10 * 6 * 1000 * 4 * 16 * 0.3)
    one = modelled_step_s(trial.spec, Compute())
    expected = 115_200 / CPU_THREAD_FLOP_PER_S["fp32"] + 1000 * CPU_UPDATE_S_PER_WEIGHT
    assert one == pytest.approx(expected)
    row = make_plan([trial], store).rows[0]
    assert row.seconds == pytest.approx(10 * one + OVERHEAD_S)


def test_hours_are_of_the_device_that_is_asked_for(store):
    """Core-hours count threads and ranks, GPU-hours count GPUs."""
    assert device_hours(3600, Compute(num_ranks=2, num_threads=4)) == 8
    assert device_hours(3600, Compute(num_ranks=2, num_threads=4, num_gpus_per_rank=0.5)) == 1
    assert make_plan([], store).device == "CPU"
    plan = make_plan([make_trial()], store, lambda trial: Compute(num_gpus_per_rank=1))
    assert plan.device == "GPU"
    assert plan.device_hours == pytest.approx(plan.rows[0].seconds / 3600)


def test_the_critical_path_is_the_longest_chain(store):
    """Three rounds after one another, whatever else there is."""
    lineage, single = make_lineage(num_rounds=3), make_trial(seed=5)
    plan = make_plan([single, *lineage], store)
    each_s = plan.rows[0].seconds
    assert plan.critical_path_s == pytest.approx(3 * each_s)
    seconds = {row.key: row.seconds for row in plan.rows}
    for num_slots, num_turns in ((1, 4), (2, 3)):
        wall_s = simulate(plan.graph, seconds, [Host(num_slots)]).wall_s
        assert wall_s == pytest.approx(num_turns * each_s)
    assert make_plan([], store).critical_path_s == 0.0


@given(dags(), st.integers(1, 4), st.data())
def test_the_simulated_wall_time_is_within_grahams_bounds(choices, num_slots, data):
    """max(work / slots, chain) <= wall <= work / slots + chain, as for any list schedule."""
    trials = make_dag(choices)
    graph = TrialGraph(trials)
    seconds = {key: data.draw(st.floats(0.1, 10)) for key in graph}
    ends: dict[str, float] = {}
    for key in graph.topological_order():
        ends[key] = seconds[key] + max((ends[p] for p in graph.parents(key)), default=0.0)
    chain, share = max(ends.values()), sum(seconds.values()) / num_slots
    wall = simulate(graph, seconds, [Host(num_slots)]).wall_s
    assert max(chain, share) - 1e-6 <= wall <= chain + share + 1e-6
