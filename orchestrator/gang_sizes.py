"""How many ranks each trial's gang gets where a sweep says `ranks: auto`.

A search is a chain of rounds, and on a large cluster the longest chain lasts longer than all work
spread over it. Larger gangs shorten a chain, at more device-hours: so they go to the trials of the
longest chain, and only until the work bounds the run. What is compared shares a size, and so do
the rounds of a lineage: sizes of one run do not mix numerics classes (method rules 22, 23).

The choice depends on the sweep, the cost model and the size of the cluster alone, neither on what
has been measured nor on what is done: the same sweep on the same cluster gets the same gangs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from cluster.resources import NodeResources
from orchestrator.costs import modelled_trial_s
from orchestrator.graph import TrialGraph
from orchestrator.shapes import Shapes
from orchestrator.simulated_figures import critical_path
from search_spaces.contracts import Compute
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Role, Trial

LEAST_GAIN = 0.05  # of the time of a group's trials on the chain: less is no sure gain
_ROUNDING = 1e-9  # GPUs may be given away by tenths


@dataclass(frozen=True)
class Room:
    """What a cluster holds.

    Attributes:
        num_ranks: Ranks on all nodes together.
        most: Ranks on the largest node, where a chosen gang has room.
    """

    num_ranks: int
    most: int


def room_of(spec: SweepSpec, nodes: Sequence[NodeResources] = (), grows: bool = False) -> Room:
    """Return how many ranks a sweep may use.

    Where no cluster is known, or it grows, that is ``max_gpus``, else as many trials at once as
    it wants, but at least one gang of ``max_ranks``. Only tasks that leave their size open count.

    Args:
        spec: The sweep.
        nodes: Total resources of each living node; none: no cluster is known.
        grows: Whether an autoscaler may add nodes.
    """
    given = spec.resources
    by_task = Shapes.of(spec).by_task
    shapes = [by_task[task.name] for task in spec.tasks if spec.resources_of(task).ranks == "auto"]
    on_nodes = [min((node.num_ranks(one) for one in shapes), default=0) for node in nodes]
    found, most = sum(on_nodes), max(on_nodes, default=0)
    limit = math.inf
    if given.max_gpus is not None:
        limit = int(given.max_gpus / given.gpus_per_rank + _ROUNDING)
    if grows or not nodes:
        wanted = given.gangs if isinstance(given.gangs, int) else 0
        found = max(found, wanted, given.max_ranks) if limit == math.inf else int(limit)
        most = most or given.max_ranks
    return Room(max(1, int(min(found, limit))), most)  # the executor says where no gang fits


def shapes_for(spec: SweepSpec, trials: Iterable[Trial], room: Room) -> Shapes:
    """Return what the trials run on, with sizes chosen where the sweep leaves them open.

    Args:
        spec: The sweep.
        trials: All of it.
        room: The cluster.
    """
    shapes = Shapes.of(spec)
    tasks = {task.name: spec.resources_of(task) for task in spec.tasks}
    is_open = {name: given.ranks == "auto" for name, given in tasks.items()}
    if not any(is_open.values()):
        return shapes
    graph = TrialGraph(trials)
    wide = cache(_wide)
    choices: dict[tuple[int, ...], dict[int, Compute]] = {}
    taken_s: dict[tuple[int, ...], dict[int, float]] = {}
    kind_of = {}
    for key, trial in graph.trials.items():
        # Parts of specifications are shared between trials, so that few kinds are priced.
        one, shape = trial.spec, shapes(trial)
        parts = map(id, (one.model, one.task, one.recipe, shape))
        kind_of[key] = kind = (*parts, one.num_removed, one.steps_before)
        if kind not in choices:
            sizes = [shape.num_ranks]
            if is_open[trial.main_role.task]:
                batch_size = one.recipe.batch_size
                sizes = possible_sizes(batch_size, shape, spec.resources.max_ranks, room)
            choices[kind] = {size: wide(shape, size) for size in sizes}
            taken_s[kind] = {n: modelled_trial_s(one, gang) for n, gang in choices[kind].items()}
    seconds = {key: taken_s[kind] for key, kind in kind_of.items()}
    chosen = gang_sizes(graph, seconds, comparable(graph), room.num_ranks)
    by_trial = {key: choices[kind_of[key]][size] for key, size in chosen.items()}
    return Shapes(shapes.by_task, by_trial)


def sizes_told(shapes: Shapes) -> str:
    """Return how many trials have gangs of each size, for people."""
    counts = Counter(shape.num_ranks for shape in shapes.by_trial.values())
    parts = (f"{counts[size]:,} on {size} rank{'s' * (size > 1)}" for size in sorted(counts))
    return f"{', '.join(parts)} each (resources.ranks: auto)"


def possible_sizes(batch_size: int, shape: Compute, max_ranks: int, room: Room) -> list[int]:
    """Return the powers of two that a gang may have, the smallest first; 1 always is.

    Ranks that share a GPU form no gang: NCCL refuses two on one.

    Args:
        batch_size: What the ranks share, evenly and in whole micro-batches.
        shape: The gang, of whatever size.
        max_ranks: Of a gang, as the sweep says.
        room: The cluster; no gang needs more than one node.
    """
    if 0 < shape.num_gpus_per_rank < 1:
        return [1]
    largest = max(1, min(max_ranks, room.most, room.num_ranks, batch_size))
    sizes = (2**power for power in range(largest.bit_length()))
    micro = shape.micro_batch_size or 1
    return [size for size in sizes if batch_size % size == 0 and batch_size // size % micro == 0]


def comparable(graph: TrialGraph) -> dict[str, int]:
    """Return groups of trials that must run alike, as a number for each.

    A group is all rounds of one lineage, or all trials of one model and task that verdicts
    compare: dense trials, tickets, controls and transfers. A trial in two makes them one.
    """
    leader: dict[tuple[object, ...], tuple[object, ...]] = {}

    def find(name: tuple[object, ...]) -> tuple[object, ...]:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for key in graph:
        first, *others = (_group(role) for role in graph[key].roles)
        for other in others:
            leader[find(other)] = find(first)
    numbers: dict[tuple[object, ...], int] = {}
    return {
        key: numbers.setdefault(find(_group(graph[key].roles[0])), len(numbers)) for key in graph
    }


def gang_sizes(
    graph: TrialGraph,
    seconds: Mapping[str, Mapping[int, float]],
    groups: Mapping[str, int],
    num_devices: int,
) -> dict[str, int]:
    """Return the devices of each trial's gang: the smallest size, and more on the critical path.

    As long as the longest chain outlasts all work spread over all devices, one group with a trial
    on it gets the size that shortens the chain most for each second of a device that it costs.
    Neither bound of the wall time, the chain and that work, ever passes the larger before.

    Args:
        graph: All trials.
        seconds: How long each trial takes, by size.
        groups: Trials of one group share a size, where there is one that each of them can have.
        num_devices: Of the cluster.
    """
    members: dict[int, list[str]] = defaultdict(list)
    for key in graph:
        members[groups[key]].append(key)
    common = {group: _common([seconds[key] for key in keys]) for group, keys in members.items()}
    sizes = {key: min(common[groups[key]] or seconds[key]) for key in graph}
    now = {key: seconds[key][size] for key, size in sizes.items()}
    work_s = sum(sizes[key] * taken_s for key, taken_s in now.items())
    order = graph.topological_order()
    while True:
        chain_s, chain = critical_path(graph, now, order)
        if chain_s <= work_s / num_devices:
            return sizes
        on_chain: dict[int, list[str]] = defaultdict(list)
        for key in chain:
            on_chain[groups[key]].append(key)
        steps = []
        for group, keys in on_chain.items():
            theirs, before_s = members[group], sum(now[key] for key in keys)
            for size in common[group]:
                saved_s = before_s - sum(seconds[key][size] for key in keys)
                if sizes[keys[0]] < size <= num_devices and saved_s >= LEAST_GAIN * before_s:
                    extra_s = sum(
                        size * seconds[key][size] - sizes[key] * now[key] for key in theirs
                    )
                    if work_s + extra_s >= chain_s * num_devices:
                        continue  # all work over all devices would last longer than the chain
                    if any(seconds[key][size] > now[key] for key in theirs):
                        continue  # one that is slower so may make another chain the longest
                    worth = saved_s / extra_s if extra_s > 0 else math.inf
                    steps.append((worth, size, group, extra_s))
        if not steps:
            return sizes
        _, size, group, extra_s = max(steps)
        work_s += extra_s
        sizes |= dict.fromkeys(members[group], size)
        now |= {key: seconds[key][size] for key in members[group]}


def _common(choices: Iterable[Mapping[int, float]]) -> list[int]:
    """Return the sizes that all can have; none where tasks of fixed sizes share a trial."""
    first, *others = choices
    return [size for size in first if all(size in other for other in others)]


def _group(role: Role) -> tuple[object, ...]:
    if role.kind == "round":
        return (role.model, role.task, role.method, role.search_seed)
    return (role.model, role.task)


def _wide(shape: Compute, num_ranks: int) -> Compute:
    return shape.model_copy(update={"num_ranks": num_ranks})
