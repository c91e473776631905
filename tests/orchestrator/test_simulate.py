"""The simulated clock and cluster: the laws of every schedule, and its figures."""

from __future__ import annotations

import math
from itertools import pairwise, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.costs import MODELLED
from orchestrator.graph import TrialGraph
from orchestrator.retries import RetryRules
from orchestrator.simulate import simulate
from orchestrator.simulated_figures import critical_path, figures_of
from orchestrator.simulated_gantt import draw_gantt, write_gantt
from orchestrator.simulated_nodes import Hazards, Host, Outages
from orchestrator.simulated_screens import basis_line, figures_data, told
from search_spaces.contracts import Compute, FailureClass, TrialState
from tests.orchestrator.dags import dags
from tests.orchestrator.factories import make_dag, make_lineage, make_trial
from tests.orchestrator.simulated import naive_urgency

HAZARDS = st.builds(
    Hazards,
    mtbf_s=st.sampled_from([math.inf, 100.0, 20.0]),
    preemptions_per_hour=st.sampled_from([0.0, 60.0]),
    repair_s=st.sampled_from([0.0, 5.0]),
    seed=st.integers(0, 9),
)
HOSTS = st.lists(st.builds(Host, st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=3)


@settings(deadline=None)
@given(dags(), HOSTS, HAZARDS, st.data())
def test_every_schedule_keeps_the_laws(choices, hosts, hazards, data):
    """Parents end first, slots are never shared, bounds hold, and a seed gives one schedule."""
    graph = TrialGraph(make_dag(choices))
    seconds = {key: data.draw(st.floats(0.1, 10)) for key in graph}
    widths = {key: data.draw(st.integers(1, max(h.num_slots for h in hosts))) for key in graph}
    schedule = simulate(graph, seconds, hosts, hazards, widths=widths)
    ends = {one.key: one.end for one in schedule.attempts if one.ending == "done"}
    for one in schedule.attempts:
        assert all(ends[parent] <= one.start for parent in graph.parents(one.key))
        assert len(one.place.slots) == widths[one.key]
    assert_slots_are_not_shared(schedule, hosts)
    figures = figures_of(graph, seconds, schedule)
    assert figures.makespan_s >= (1 - 1e-9) * max(figures.work_bound_s, figures.chain_s)
    assert figures.num_attempts == len(ends) + figures.num_failures + figures.num_preemptions
    assert figures.utilisation + figures.lost_share <= 1 + 1e-9
    assert schedule == simulate(graph, seconds, hosts, hazards, widths=widths)
    is_over = {TrialState.SUCCEEDED, TrialState.FAILED, TrialState.BLOCKED}
    assert set(schedule.states.values()) <= is_over


@settings(deadline=None)
@given(dags(), st.integers(4, 9), st.data())
def test_the_longest_lineage_goes_first_over_gangs_of_all_sizes(choices, num_slots, data):
    """Nothing starts while what is more urgent could start and waits, however large its gang."""
    trials = make_dag(choices)
    graph = TrialGraph(trials)
    widths = {key: data.draw(st.sampled_from([1, 2, 4])) for key in graph}
    seconds = {key: data.draw(st.floats(0.1, 10)) for key in graph}

    def compute_for(trial):
        return Compute(num_ranks=widths[trial.key])

    urgency = naive_urgency(trials, compute_for)
    arguments = (graph, seconds, [Host(num_slots)])
    schedule = simulate(*arguments, widths=widths, compute_for=compute_for)
    by_key = {one.key: one for one in schedule.attempts}
    assert by_key.keys() == set(graph)
    for one, other in permutations(schedule.attempts, 2):
        ready_at = max((by_key[parent].end for parent in graph.parents(other.key)), default=0.0)
        if ready_at <= one.start < other.start:
            assert urgency[other.key] < urgency[one.key]


def assert_slots_are_not_shared(schedule, hosts) -> None:
    """On each slot the attempts follow one another, and none runs while its host is down."""
    down_since: dict[int, float] = {}
    down: dict[int, list[tuple[float, float]]] = {}
    for outage in schedule.outages:
        if outage.what == "back":
            down.setdefault(outage.host, []).append((down_since.pop(outage.host), outage.at))
        else:
            down_since[outage.host] = outage.at
    for host, size in enumerate(hosts):
        for slot in range(size.num_slots):
            spans = [(one.start, one.end) for one in schedule.attempts if one.place.host == host]
            own = sorted(
                (one.start, one.end)
                for one in schedule.attempts
                if one.place.host == host and slot in one.place.slots
            )
            assert all(before[1] <= after[0] for before, after in pairwise(own))
            for start, end in down.get(host, []):
                assert not any(start < at[1] and at[0] < end for at in spans)


def test_an_outage_takes_its_host_and_the_trial_begins_anew():
    """Both gangs of the node lose their work; the third, on another node, does not notice."""
    trials = [make_trial(seed=seed) for seed in range(3)]
    graph, hazards = TrialGraph(trials), Hazards(mtbf_s=200.0, repair_s=30.0, seed=1)
    hosts = [Host(2), Host(1)]
    first = Outages(hosts, hazards).take()
    seconds = {trial.key: first.at + 1 for trial in trials}
    schedule = simulate(graph, seconds, hosts, hazards)
    hit = [one for one in schedule.attempts if one.end == first.at]
    assert {one.place.host for one in hit} == {first.host}
    assert len(hit) == hosts[first.host].num_slots
    assert all(one.ending == first.what for one in hit)
    assert schedule.num_retries >= len(hit)


def test_a_trial_that_is_hit_too_often_blocks_what_waits_for_it():
    """The budget is the scheduler's: four attempts, then the lineage is blocked and it is said."""
    lineage = make_lineage(num_rounds=3)
    graph = TrialGraph(lineage)
    seconds = dict.fromkeys(graph, 1e6)
    schedule = simulate(graph, seconds, [Host(1)], Hazards(mtbf_s=100.0))
    figures = figures_of(graph, seconds, schedule)
    assert (figures.num_attempts, figures.num_retries) == (4, 3)
    assert (figures.num_failed, figures.num_blocked, figures.num_trials) == (1, 2, 0)
    lines = "\n".join(told(figures, {key: "one" for key in graph}))
    assert "1 trial failed for good, 2 blocked behind; the bounds" in lines
    assert figures.ratio == 1.0 and figures.lost_s > 0


@pytest.mark.parametrize(
    ("hazards", "used", "ending"),
    [
        (Hazards(mtbf_s=100.0), FailureClass.INFRASTRUCTURE, "failed"),
        (Hazards(preemptions_per_hour=36.0), FailureClass.PREEMPTED, "preempted"),
    ],
)
def test_each_kind_of_outage_has_its_own_budget(hazards, used, ending):
    """A node that is taken away on purpose uses no retry of those that fail, nor the reverse."""
    trial = make_trial()
    budgets = {FailureClass.INFRASTRUCTURE: 0, FailureClass.PREEMPTED: 0, used: 2}
    schedule = simulate(TrialGraph([trial]), {trial.key: 1e6}, [Host(1)], hazards, budgets)
    assert [one.ending for one in schedule.attempts] == [ending] * 3
    assert schedule.states == {trial.key: TrialState.FAILED}


def test_waits_are_those_of_the_given_rules():
    """The second attempt begins when the sweep's own back-off has passed, not the default one."""
    trial, rules = make_trial(), RetryRules(base_s=5000.0, limit_s=5000.0, jitter=0.0)
    hazards = Hazards(mtbf_s=100.0, repair_s=1.0)
    arguments = (TrialGraph([trial]), {trial.key: 1e6}, [Host(1)], hazards)
    first, second, *_ = simulate(*arguments, rules=rules).attempts
    assert second.start >= first.end + 5000.0
    assert simulate(*arguments).attempts[1].start < first.end + 5000.0


def test_all_that_ends_at_one_instant_ends_before_anything_starts():
    """The slot of the first does not go to a light trial while the second releases heavy ones."""
    first, second = make_trial(seed=1, train_steps=1000), make_trial(seed=2)
    heavy = [make_trial(seed=seed, parent=second.key) for seed in (3, 4)]
    light = [make_trial(seed=seed, train_steps=1) for seed in (5, 6)]
    graph = TrialGraph([first, second, *heavy, *light])
    schedule = simulate(graph, dict.fromkeys(graph, 1.0), [Host(2)])
    starts = {one.key: one.start for one in schedule.attempts}
    assert [starts[trial.key] for trial in (first, second, *heavy, *light)] == [0, 0, 1, 1, 2, 2]


def test_reused_trials_take_no_time_and_nothing_to_run_is_said():
    """What has its result is neither run nor part of the critical path."""
    first, second = make_lineage(num_rounds=2)
    graph = TrialGraph([first, second])
    seconds = {second.key: 4.0}
    assert critical_path(graph, seconds) == (4.0, (second.key,))
    assert simulate(graph, seconds, [Host(1)]).wall_s == 4.0
    none = figures_of(graph, {}, simulate(graph, {}, [Host(1)]))
    assert told(none, {}) == ["Nothing to run: every trial has its result or is left out."]
    assert critical_path(TrialGraph(), {}) == (0.0, ())


def test_a_trial_wider_than_every_host_is_refused():
    trial = make_trial()
    with pytest.raises(ValueError, match="takes 4 slots, but no host has more than 2"):
        simulate(TrialGraph([trial]), {trial.key: 1.0}, [Host(2)], widths={trial.key: 4})


def test_outages_follow_their_rates():
    """Their mean distance is that of both causes together, and a quarter are preemptions."""
    hazards = Hazards(mtbf_s=1200.0, preemptions_per_hour=1.0, repair_s=0.0)
    outages = Outages([Host(1)], hazards)
    taken = [one for one in (outages.take() for _ in range(8000)) if one.what != "back"]
    assert taken[-1].at / len(taken) == pytest.approx(900, rel=0.05)
    share = sum(one.what == "preempted" for one in taken) / len(taken)
    assert share == pytest.approx(0.25, abs=0.02)


def test_figures_are_told_to_people_and_programs(tmp_path):
    """Lines, JSON and the chart of one schedule, as PNG and as a page that needs nothing else."""
    lineage, other = make_lineage(num_rounds=3), make_trial(seed=7)
    graph, hosts = TrialGraph([*lineage, other]), [Host(1), Host(1)]
    seconds = dict.fromkeys(graph, 60.0)
    schedule = simulate(graph, seconds, hosts)
    figures = figures_of(graph, seconds, schedule)
    labels = {trial.key: f"${trial.main_role.label}" for trial in graph.trials.values()}
    lines = told(figures, labels)
    assert lines[0] == "makespan      3.0 min on 2 gangs, 4 trials done"
    assert lines[1].startswith("utilisation   66.7% of the gangs' time; 0.0% lost, 33.3% idle")
    assert lines[3] == "ratio         1.000 x the larger lower bound"
    assert lines[-3:] == [f"  {labels[trial.key]}" for trial in lineage]
    data = figures_data(figures, labels)
    assert (data["makespan_s"], data["work_bound_s"], data["ratio"]) == (180.0, 120.0, 1.0)
    assert data["chain"][0] == {"key": lineage[0].key, "label": labels[lineage[0].key]}
    line = basis_line({"measured in 3 results": 4, MODELLED: 2}, "H100")
    assert line == f"durations     4 measured in 3 results; 2 {MODELLED} (H100)"
    kinds = dict.fromkeys(graph, "round")
    drawn = ("toy", schedule, hosts, figures, labels, kinds)
    assert draw_gantt(*drawn).startswith(b"\x89PNG")
    write_gantt(tmp_path / "new" / "run.html", *drawn)
    page = (tmp_path / "new" / "run.html").read_text()
    assert "data:image/png;base64," in page and "http" not in page and lines[0] in page
