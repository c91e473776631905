"""The cluster of `tickets simulate`, cut into slots as a real one would be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.fleet import Fleet
from cluster.resources import NodeResources
from orchestrator.costs import num_devices
from orchestrator.simulated_figures import Unit
from orchestrator.simulated_nodes import Host
from search_spaces.contracts import Compute


@dataclass(frozen=True)
class Slots:
    """What the simulation runs on.

    Attributes:
        hosts: The cluster.
        widths: Slots that a gang takes, by its shape.
        unit: What a slot is.
        most: Attempts at once.
    """

    hosts: tuple[Host, ...]
    widths: Mapping[Compute, int]
    unit: Unit
    most: int

    def width(self, compute: Compute) -> int:
        """Return the slots that a trial takes on such a gang."""
        return self.widths[compute.with_micro_batch(None)]


def slots_of(
    devices: int,
    node_size: int,
    shapes: Sequence[Compute],
    gangs: Literal["auto"] | int = "auto",
    max_gpus: float | None = None,
) -> Slots:
    """Return the slots of a cluster: a gang each where all are of one shape, else a rank or a CPU.

    Where gangs span nodes, as many nodes as the largest needs are one host, which goes down as a
    whole; that a rank of several CPUs does not span nodes is left out there.

    Args:
        devices: GPUs, or CPUs for gangs without GPUs.
        node_size: Of them on one node; the last node may have fewer.
        shapes: Of the gangs.
        gangs: How many the sweep wants at most.
        max_gpus: Most GPUs of all gangs together.

    Raises:
        UserError: Not even one gang of some shape fits.
    """
    nodes = nodes_of(devices, node_size, shapes)
    fleet = Fleet(shapes, None if gangs == "auto" else gangs, nodes, max_gpus=max_gpus)
    if not fleet.is_mixed:
        return _gang_slots(fleet, nodes)
    widths = {shape: _width(shape) for shape in fleet.shapes}
    counts = [_width_of_node(node, fleet.shapes[0]) for node in nodes]
    span = math.ceil(max(widths.values()) / counts[0])
    each = fleet.shapes[0].num_gpus_per_rank
    left = math.inf if max_gpus is None else int(max_gpus / each + 1e-9)
    hosts = tuple(_trimmed(_joined(counts, span), left))
    return Slots(hosts, widths, _unit(fleet.shapes[0]), fleet.num_slots)


def nodes_of(devices: int, node_size: int, shapes: Sequence[Compute]) -> list[NodeResources]:
    """Return the nodes of a cluster for gangs of these shapes; arguments as for `slots_of`."""
    sizes = [min(node_size, devices - at) for at in range(0, devices, node_size)]
    return [_node(size, shapes) for size in sizes]


def _node(size: int, shapes: Sequence[Compute]) -> NodeResources:
    each = min(shape.num_gpus_per_rank for shape in shapes)
    if not each:
        return NodeResources(size, 0)
    return NodeResources(max(one.num_threads for one in shapes) * math.ceil(size / each), size)


def _gang_slots(fleet: Fleet, nodes: Sequence[NodeResources]) -> Slots:
    (gang,) = fleet.shapes
    unit = Unit("gang", "GPU" if gang.num_gpus_per_rank else "CPU", num_devices(gang))
    if fleet.strategy(gang) == "PACK":  # gangs span nodes; that two of them share one is left out
        num_nodes = math.ceil(gang.num_ranks / max(1, nodes[0].num_ranks(gang)))
        hosts: tuple[Host, ...] = (Host(1, num_nodes),) * fleet.num_slots
    else:
        counts = [node.num_ranks(gang) // gang.num_ranks for node in nodes]
        hosts = tuple(_trimmed((Host(count) for count in counts), fleet.num_slots))
    return Slots(hosts, {gang: 1}, unit, fleet.num_slots)


def _width(gang: Compute) -> int:
    return gang.num_ranks * (1 if gang.num_gpus_per_rank else gang.num_threads)


def _width_of_node(node: NodeResources, gang: Compute) -> int:
    return node.num_ranks(gang) if gang.num_gpus_per_rank else int(node.num_cpus)


def _unit(gang: Compute) -> Unit:
    if not gang.num_gpus_per_rank:
        return Unit("CPU", "CPU", 1.0)
    name = "GPU" if gang.num_gpus_per_rank == 1 else "rank"
    return Unit(name, "GPU", gang.num_gpus_per_rank)


def _joined(counts: Sequence[int], span: int) -> Iterator[Host]:
    for at in range(0, len(counts), span):
        part = counts[at : at + span]
        yield Host(sum(part), len(part))


def _trimmed(hosts: Iterator[Host], left: float) -> Iterator[Host]:
    """Yield the first hosts until they have so many slots; the last one in part."""
    for host in hosts:
        num_slots = int(min(host.num_slots, left))
        left -= num_slots
        if num_slots:
            yield Host(num_slots, host.num_nodes)
