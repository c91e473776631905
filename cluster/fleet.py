"""What gangs of one or several shapes a cluster has room for together, and what they count."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cluster.resources import NodeResources, Strategy, num_room, plan_gangs
from search_spaces.contracts import Compute

_ROUNDING = 1e-9


class Fleet:
    """The shapes of a sweep's gangs, and which of them can run at once.

    Gangs of one shape are counted. Gangs of several are packed onto the nodes one by one, the
    largest first; Ray may place them otherwise, so that one that fits here may still have to wait.
    """

    def __init__(
        self,
        shapes: Sequence[Compute],
        wanted: int | None,
        nodes: Sequence[NodeResources],
        grows: bool = False,
        max_gpus: float | None = None,
    ) -> None:
        """Plan each shape as if it were alone.

        Args:
            shapes: Of the gangs; micro-batches make no difference.
            wanted: Trials at once; None = as many as fit.
            nodes: Total resources of each living node.
            grows: Whether an autoscaler may add nodes.
            max_gpus: Most GPUs of all gangs together; None = as many as there are.

        Raises:
            UserError: Not even one gang of some shape fits the cluster.
        """
        distinct = dict.fromkeys(shape.with_micro_batch(None) for shape in shapes)
        self._wanted, self._nodes, self._grows = wanted, nodes, grows
        self._max_gpus = math.inf if max_gpus is None else max_gpus
        self._placements = {
            shape: plan_gangs(shape, wanted or "auto", nodes, grows) for shape in distinct
        }
        # The smallest first.
        self.shapes = tuple(sorted(distinct, key=lambda one: -num_room(one, nodes)))
        self.look(nodes)

    @property
    def is_mixed(self) -> bool:
        """Whether there are gangs of several shapes."""
        return len(self.shapes) > 1

    @property
    def num_slots(self) -> int:
        """Most gangs at once, of whatever shape."""
        return max(self._most(shape) for shape in self.shapes)

    @property
    def description(self) -> str:
        """The shapes, for people."""
        return " or ".join(map(_described, self.shapes))

    def strategy(self, shape: Compute) -> Strategy:
        """Return whether the ranks of a gang must share one node."""
        return self._placements[shape].strategy

    def look(self, nodes: Sequence[NodeResources]) -> None:
        """Count anew for how many gangs of each shape the living nodes have room."""
        self._rooms = {shape: num_room(shape, nodes) for shape in self._placements}

    def has_nodes_for(self, shape: Compute) -> bool:
        """Whether the living nodes could hold one gang, were they empty."""
        return self._rooms[shape] > 0

    def fits(self, gangs: Sequence[Compute]) -> bool:
        """Whether gangs of these shapes may run at once."""
        if len(gangs) > self.num_slots:
            return False
        if len(gangs) <= 1 or not self.is_mixed:
            return True
        if sum(map(num_gpus, gangs)) > self._max_gpus + _ROUNDING:
            return False
        return self._are_demand or self._pack(gangs)

    def largest_room(self, gangs: Sequence[Compute]) -> int:
        """Return for how many of the largest of these gangs the living nodes have room."""
        smallest = self._rooms[self.shapes[0]]
        if not self.is_mixed:
            return smallest
        return min((room for gang in gangs if (room := self._rooms[gang])), default=smallest)

    def seats(self, gangs: Sequence[Compute], room: int) -> float:
        """Return what gangs take, in gangs of which ``room`` fill the cluster."""
        if not self.is_mixed:
            return len(gangs)
        return sum(room / self._rooms[gang] if self._rooms[gang] else 1.0 for gang in gangs)

    @property
    def _are_demand(self) -> bool:
        return self._grows and self._wanted is not None

    def _most(self, shape: Compute) -> int:
        num_gangs, each = self._placements[shape].num_gangs, num_gpus(shape)
        if not each or self._max_gpus == math.inf:
            return num_gangs
        return min(num_gangs, int(self._max_gpus / each + _ROUNDING))

    def _pack(self, gangs: Sequence[Compute]) -> bool:
        free = list(self._nodes)
        for gang in sorted(gangs, key=self.shapes.index, reverse=True):
            ranks = _ranks_on(free, gang, self.strategy(gang))
            if ranks is None:
                return False
            free = [node.without(gang, num) for node, num in zip(free, ranks, strict=True)]
        return True


def num_gpus(gang: Compute) -> float:
    """Return the GPUs that one gang takes."""
    return gang.num_ranks * gang.num_gpus_per_rank


def _ranks_on(
    nodes: Sequence[NodeResources], gang: Compute, strategy: Strategy
) -> list[int] | None:
    """Return how many ranks of a gang go to each node; None = it finds no room.

    The node with the least room that suffices is filled first; a gang that spans nodes takes
    those with the most.
    """
    rooms = [node.num_ranks(gang) for node in nodes]
    ranks = [0] * len(nodes)
    if strategy == "STRICT_PACK":
        enough = [(room, at) for at, room in enumerate(rooms) if room >= gang.num_ranks]
        if not enough:
            return None
        ranks[min(enough)[1]] = gang.num_ranks
        return ranks
    left = gang.num_ranks
    for at in sorted(range(len(nodes)), key=lambda at: -rooms[at]):
        ranks[at] = min(left, rooms[at])
        left -= ranks[at]
    return None if left else ranks


def _described(shape: Compute) -> str:
    text = f"{shape.num_ranks} rank(s) x {shape.num_threads} CPU(s)"
    return f"{text} + {shape.num_gpus_per_rank:g} GPU(s)" if shape.num_gpus_per_rank else text
