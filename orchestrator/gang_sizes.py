"""How many ranks each trial's gang gets where a sweep says `ranks: auto`.

A search is a chain of rounds, and on a large cluster the longest chain lasts longer than all work
spread over it. Larger gangs shorten a chain, at more device-hours: so they go to the trials of the
longest chain, and only until the work bounds the run. What is compared shares a size, and so do
the rounds of a lineage: sizes never mix numerics classes (method rules 22, 23).

The choice depends on the sweep, the cost model and the size of the cluster alone, neither on what
has been measured nor on what is done: the same sweep on the same cluster gets the same gangs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
        most: Ranks on the largest node: a chosen gang does not span nodes.
    """

    num_ranks: int
    most: int


def room_of(spec: SweepSpec, nodes: Sequence[NodeResources] = (), grows: bool = False) -> Room:
    """Return how many ranks a sweep may use.

    Where no cluster is known, or it grows, that is ``max_gpus``, else as many trials at once as
    it wants, but at least one gang of ``max_ranks``.

    Args:
        spec: The sweep.
        nodes: Total resources of each living node; none: no cluster is known.
        grows: Whether an autoscaler may add nodes.
    """
    given = spec.resources
    shapes = Shapes.of(spec).distinct
    on_nodes = [min(node.num_ranks(_wide(shape, 1)) for shape in shapes) for node in nodes]
    found, most = sum(on_nodes), max(on_nodes, default=0)
    limit = math.inf
    if given.max_gpus is not None:
        limit = int(given.max_gpus / given.gpus_per_rank + _ROUNDING)
    if grows or not nodes:
        wanted = given.gangs if isinstance(given.gangs, int) else 0
        found = max(found, wanted, given.max_ranks) if limit == math.inf else int(limit)
        most = max(most, given.max_ranks)
    return Room(int(min(found, limit)), most)


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
    choices: dict[str, dict[int, Compute]] = {}
    for key, trial in graph.trials.items():
        shape, batch_size = shapes(trial), trial.spec.recipe.batch_size
        sizes = [shape.num_ranks]
        if is_open[trial.main_role.task]:
            sizes = possible_sizes(batch_size, shape, spec.resources.max_ranks, room)
        choices[key] = {size: _wide(shape, size) for size in sizes}
    seconds = {
        key: {size: modelled_trial_s(graph[key].spec, one) for size, one in ours.items()}
        for key, ours in choices.items()
    }
    chosen = gang_sizes(graph, seconds, comparable(graph), room.num_ranks)
    return Shapes(shapes.by_task, {key: choices[key][size] for key, size in chosen.items()})


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
        room: The cluster; no gang is larger than a node.
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

    Args:
        graph: All trials.
        seconds: How long each trial takes, by size.
        groups: Trials of one group share a size: one that each of them can have.
        num_devices: Of the cluster.
    """
    members: dict[int, list[str]] = defaultdict(list)
    for key in graph:
        members[groups[key]].append(key)
    sizes = {group: max(min(seconds[key]) for key in keys) for group, keys in members.items()}
    now = {key: seconds[key][sizes[groups[key]]] for key in graph}
    work_s = sum(sizes[groups[key]] * taken_s for key, taken_s in now.items())
    while True:
        chain_s, chain = critical_path(graph, now)
        if chain_s <= work_s / num_devices:
            break
        on_chain: dict[int, list[str]] = defaultdict(list)
        for key in chain:
            on_chain[groups[key]].append(key)
        steps = []
        for group, keys in on_chain.items():
            old, theirs = sizes[group], members[group]
            for size in _larger(old, [seconds[key] for key in theirs]):
                before_s = sum(now[key] for key in keys)
                saved_s = before_s - sum(seconds[key][size] for key in keys)
                if size <= num_devices and saved_s >= LEAST_GAIN * before_s:
                    extra_s = sum(size * seconds[key][size] - old * now[key] for key in theirs)
                    worth = saved_s / extra_s if extra_s > 0 else math.inf
                    steps.append((worth, size, group, extra_s))
        if not steps:
            break
        _, size, group, extra_s = max(steps)
        work_s += extra_s
        sizes[group] = size
        now |= {key: seconds[key][size] for key in members[group]}
    return {key: sizes[groups[key]] for key in graph}


def _larger(size: int, choices: Iterable[Mapping[int, float]]) -> set[int]:
    first, *others = choices
    return {one for one in first if one > size and all(one in other for other in others)}


def _group(role: Role) -> tuple[object, ...]:
    if role.kind == "round":
        return (role.model, role.task, role.method, role.search_seed)
    return (role.model, role.task)


def _wide(shape: Compute, num_ranks: int) -> Compute:
    return shape.model_copy(update={"num_ranks": num_ranks})
