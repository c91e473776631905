"""Sizes of gangs where a sweep leaves them open: only the longest chain gets more ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper_study import printed, trials_of
from cluster.resources import NodeResources
from cluster.session import Session
from orchestrator.gang_sizes import (
    Room,
    comparable,
    gang_sizes,
    possible_sizes,
    room_of,
    shapes_for,
    sizes_told,
)
from orchestrator.graph import TrialGraph
from orchestrator.listeners import SilentListener
from orchestrator.running import run_on_ray
from orchestrator.shapes import Shapes
from orchestrator.simulate import simulate
from orchestrator.simulated_figures import critical_path
from orchestrator.simulated_nodes import Host
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from search_spaces.contracts import Compute
from search_spaces.sweep import SweepSpec
from search_spaces.trial import TrialSpec
from tests.orchestrator.dags import dags
from tests.orchestrator.factories import make_dag, make_lineage, make_trial
from tests.orchestrator.sweeps import tickets, tiny_inputs
from tests.search_spaces.makers import MINIMAL, sweep

SECONDS = st.dictionaries(st.sampled_from([2, 4, 8]), st.floats(0.1, 100), max_size=3)
GPUS = {"gpus_per_rank": 1, "ranks": "auto"}


def test_gangs_grow_on_the_critical_path_alone():
    """A lineage beside short trials gets more GPUs until all work bounds the wall time."""
    lineage, others = make_lineage(num_rounds=3), [make_trial(seed=9 + n) for n in range(8)]
    graph = TrialGraph([*lineage, *others])
    long = {1: 80.0, 2: 50.0, 4: 60.0}  # more than two GPUs do not help
    choices = {key: long for key in graph} | {one.key: {1: 10.0, 2: 6.0} for one in others}
    alone = {key: number for number, key in enumerate(graph)}
    sizes = gang_sizes(graph, choices, alone, 8)
    assert [sizes[trial.key] for trial in lineage] == [2, 2, 2]
    assert all(sizes[trial.key] == 1 for trial in others)
    chosen = {key: choices[key][size] for key, size in sizes.items()}
    assert simulate(graph, chosen, [Host(8)], widths=sizes).wall_s == 150.0
    assert set(gang_sizes(graph, choices, alone, 1).values()) == {1}
    assert gang_sizes(TrialGraph(), {}, {}, 8) == {}


def test_a_large_group_grows_only_as_far_as_the_work_allows():
    """One long trial among many of its group: what shortens it would cost more than it saves."""
    trials = [make_trial(seed=seed) for seed in range(10)]
    graph = TrialGraph(trials)
    seconds = {key: {1: 10.0, 8: 9.0} for key in graph} | {trials[0].key: {1: 30.0, 8: 10.0}}
    together = dict.fromkeys(graph, 0)
    assert set(gang_sizes(graph, seconds, together, 12).values()) == {1}  # 727 s of work on 12
    alone = {key: number for number, key in enumerate(graph)}
    assert gang_sizes(graph, seconds, alone, 12)[trials[0].key] == 8


def test_fixed_sizes_stand_though_tasks_share_a_trial():
    """Two tasks of one data set with sizes of their own: what they share joins their groups."""
    lineage = make_lineage(num_rounds=2)
    graph = TrialGraph(lineage)
    seconds = {lineage[0].key: {1: 9.0}, lineage[1].key: {4: 3.0}}
    sizes = gang_sizes(graph, seconds, dict.fromkeys(graph, 0), 8)
    assert [sizes[trial.key] for trial in lineage] == [1, 4]


@given(
    parents=dags(max_size=8),
    times=st.lists(st.tuples(st.floats(0.1, 100), SECONDS), min_size=8, max_size=8),
    group_of=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    num_devices=st.integers(1, 16),
)
def test_no_choice_is_worse_than_none(parents, times, group_of, num_devices):
    """Groups stay together, sizes are possible, and neither bound of the wall time grows."""
    graph = TrialGraph(make_dag(parents))
    seconds = {key: {1: one} | more for key, (one, more) in zip(graph, times, strict=False)}
    groups = dict(zip(graph, group_of, strict=False))
    sizes = gang_sizes(graph, seconds, groups, num_devices)
    assert set(sizes) == set(graph)
    assert len({(groups[key], size) for key, size in sizes.items()}) == len(set(groups.values()))
    assert all(size in seconds[key] and size <= max(1, num_devices) for key, size in sizes.items())
    narrow = {key: seconds[key][1] for key in graph}
    chosen = {key: seconds[key][size] for key, size in sizes.items()}
    works = [sum(narrow.values()), sum(sizes[key] * chosen[key] for key in graph)]
    before, after = (
        max(critical_path(graph, taken)[0], work / num_devices)
        for taken, work in zip([narrow, chosen], works, strict=True)
    )
    assert after <= before * (1 + 1e-9)


def test_what_is_compared_runs_alike():
    """Rounds of a lineage are one group; so is all that verdicts compare, over every level."""
    trials = printed(trials_of("bert-base"))
    graph = TrialGraph(trials)
    groups = comparable(graph)
    lineages: dict[tuple[str, int], set[int]] = {}
    judged: dict[str, set[int]] = {}
    for key in graph:
        for role in graph[key].roles:
            if role.kind == "round":
                lineages.setdefault((role.task, role.search_seed), set()).add(groups[key])
            else:
                judged.setdefault(role.task, set()).add(groups[key])
    assert all(len(one) == 1 for one in (*lineages.values(), *judged.values()))
    assert len(set(groups.values())) == len(lineages) + len(judged)
    both = make_trial(kind="dense")  # which is round 0 too
    both = both.model_copy(update={"roles": (*both.roles, *make_trial(round_index=0).roles)})
    assert len(set(comparable(TrialGraph([both, *make_lineage(seed=1)])).values())) == 2
    lineage = make_lineage()
    first = lineage[0].model_copy(update={"roles": both.roles})
    final = make_trial(kind="final", seed=7)
    assert len(set(comparable(TrialGraph([first, *lineage[1:], final])).values())) == 1


@pytest.mark.parametrize(
    ("batch_size", "micro", "most", "room", "sizes"),
    [
        (32, None, 8, Room(64, 8), [1, 2, 4, 8]),
        (32, None, 6, Room(64, 8), [1, 2, 4]),
        (32, None, 8, Room(64, 2), [1, 2]),
        (32, None, 8, Room(1, 1), [1]),
        (32, None, 8, Room(0, 0), [1]),
        (12, None, 8, Room(64, 8), [1, 2, 4]),
        (32, 8, 8, Room(64, 8), [1, 2, 4]),
        (3, None, 8, Room(64, 8), [1]),
    ],
)
def test_sizes_divide_the_batch_and_fit_a_node(batch_size, micro, most, room, sizes):
    shape = Compute(micro_batch_size=micro)
    assert possible_sizes(batch_size, shape, most, room) == sizes
    half = Compute(micro_batch_size=micro, num_gpus_per_rank=0.5)
    assert possible_sizes(batch_size, half, most, room) == [1]  # NCCL wants a GPU for each rank


@pytest.mark.parametrize(
    ("resources", "nodes", "grows", "room"),
    [
        (GPUS, [NodeResources(16, 8), NodeResources(16, 4)], False, Room(12, 8)),
        (GPUS | {"cpus_per_rank": 4}, [NodeResources(16, 8)], False, Room(4, 4)),
        (GPUS | {"max_gpus": 5}, [NodeResources(16, 8)], False, Room(5, 8)),
        (GPUS, [], False, Room(8, 8)),
        (GPUS | {"max_gpus": 64}, [], False, Room(64, 8)),
        (GPUS | {"gangs": 32}, [], False, Room(32, 8)),
        (GPUS | {"max_gpus": 64}, [NodeResources(16, 0)], True, Room(64, 8)),
        (GPUS, [NodeResources(16, 4)] * 2, True, Room(8, 4)),
        (GPUS, [NodeResources(16, 0)], False, Room(1, 0)),
        ({"ranks": "auto", "max_ranks": 2}, [], False, Room(2, 2)),
        ({"ranks": "auto"}, [NodeResources(2, 0)], False, Room(2, 2)),
    ],
)
def test_room_is_the_clusters_or_what_is_asked_for(resources, nodes, grows, room):
    assert room_of(sweep(resources=resources), nodes, grows) == room


def test_only_tasks_that_leave_their_size_open_count():
    """A task with many CPUs a rank and a size of its own makes no other gang smaller."""
    task = MINIMAL["tasks"][0]
    own = {**task, "name": "b", "resources": {"ranks": 1, "cpus_per_rank": 16}}
    spec = sweep(tasks=[task, own], resources=GPUS)
    assert room_of(spec, [NodeResources(32, 8)]) == Room(8, 8)


def test_a_cluster_without_room_is_the_executors_to_refuse():
    """Sizes are chosen before it is asked: one rank each, and no division by its GPUs."""
    assert of_task(sweep(resources=GPUS), MINIMAL["tasks"][0]["name"], Room(1, 0)) == {1}


def of_task(spec: SweepSpec, name: str, room: Room) -> set[int]:
    made = make_trial(train_steps=10**9)
    long = made.spec.task.model_copy(update={"max_length": 10**6})
    trial = made.model_copy(
        update={
            "spec": made.spec.model_copy(update={"task": long}),
            "roles": (made.main_role.model_copy(update={"task": name}),),
        }
    )
    shapes = shapes_for(spec, [trial], room)
    assert shapes.distinct == (shapes(trial),)
    return {shapes(trial).num_ranks}


def test_a_task_says_for_itself_whether_its_size_is_open():
    """A number stands, of the sweep or of the task; only ``auto`` is chosen."""
    task = MINIMAL["tasks"][0]
    room = Room(4, 4)
    open_task = sweep(tasks=[task, {**task, "name": "b", "resources": {"ranks": "auto"}}])
    assert of_task(open_task, "b", room) == {4}
    assert of_task(open_task, task["name"], room) == {1}
    fixed = sweep(
        tasks=[task, {**task, "name": "b", "resources": {"ranks": 2}}], resources={"ranks": "auto"}
    )
    assert of_task(fixed, "b", room) == {2}
    assert of_task(fixed, task["name"], room) == {4}
    assert not shapes_for(sweep(), [], room).by_trial
    assert Shapes.of(fixed).by_task[task["name"]].num_ranks == 1


@pytest.fixture(scope="module")
def open_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One lineage of two long rounds, and tickets and dense trials that take less: a long chain."""
    root = tmp_path_factory.mktemp("auto")
    model, source = tiny_inputs(root)
    path = root / "sweep.yaml"
    path.write_text(f"""
name: auto
models: [{{name: tiny, source: {model}}}]
tasks: [{{name: toy, source: {source}, max_length: 24}}]
seeds: [1, 2]
search_seed: 1
schedule: {{kind: levels, levels: [0.3, 0.5]}}
recipe: {{train_steps: 20, batch_size: 16, learning_rate: 1.0e-3}}
search_recipe: {{train_steps: 80, batch_size: 16, learning_rate: 1.0e-3}}
replicate: finetune
verdict: {{rule: strict}}
resources: {{gangs: 1, ranks: auto, max_ranks: 2}}
store: {root}/store
""")
    return path


def test_plan_and_simulate_choose_for_their_cluster(open_sweep: Path) -> None:
    """A plan is for one node of max_ranks; a simulation for the cluster that it is told."""
    root = open_sweep.parent
    long = open_sweep.with_name("long.yaml")
    text = open_sweep.read_text().replace("train_steps: 80", "train_steps: 300000000")
    long.write_text(text.replace("name: auto", "name: long"))
    rows = json.loads(tickets("plan", str(long), "--json", cwd=root).stdout)["rows"]
    assert {(row["kind"], row["num_ranks"]) for row in rows} >= {("round", 2), ("dense", 1)}
    told = tickets("simulate", str(long), "--cpus", "4", cwd=root).stdout
    assert "trials        6 on 1 rank, 2 on 2 ranks each (resources.ranks: auto)" in told
    alone = tickets("simulate", str(long), "--cpus", "1", cwd=root).stdout
    assert "trials        8 on 1 rank each (resources.ranks: auto)" in alone


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_runs_with_the_sizes_that_were_chosen(
    open_sweep: Path, ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds run on two ranks, all that is compared on one; so no verdict mixes classes."""

    def taken_s(spec: TrialSpec, compute: Compute) -> float:  # of trials this small none would gain
        return spec.num_steps / (compute.num_ranks if spec.num_steps == 80 else 1)

    monkeypatch.setattr("orchestrator.gang_sizes.modelled_trial_s", taken_s)
    context = SweepContext.open(open_sweep)
    told: list[str] = []
    outcome = run_on_ray(context, SilentListener(), told.append, lambda: None)
    assert outcome.succeeded, outcome.causes
    store = Store(context.spec.store)
    ranks: dict[str, set[int]] = {}
    for trial in context.trials:
        result = store.read(trial.key)
        assert result is not None
        ranks.setdefault(trial.kind, set()).add(result.numerics.num_ranks)
    assert ranks == {"round": {2}, "dense": {1}, "final": {1}}
    room = room_of(context.spec, ray_session.nodes)
    assert f"Trials: {sizes_told(shapes_for(context.spec, context.trials, room))}" in told
