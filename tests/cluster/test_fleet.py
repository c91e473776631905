"""Which gangs of several sizes a cluster holds at once, as arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.fleet import Fleet, num_gpus
from cluster.resources import NodeResources, num_room
from search_spaces.contracts import Compute
from search_spaces.errors import UserError

ONE, TWO, FOUR = (Compute(num_ranks=ranks, num_gpus_per_rank=1) for ranks in (1, 2, 4))
NODES = st.lists(st.integers(4, 9), min_size=1, max_size=4)
SHAPES = st.lists(st.builds(Compute, num_ranks=st.integers(1, 4)), min_size=1, max_size=3)


def gpu_nodes(*counts: int) -> list[NodeResources]:
    return [NodeResources(32, count) for count in counts]


def fleet(*shapes: Compute, nodes: list[NodeResources], **limits: float) -> Fleet:
    return Fleet(shapes, None, nodes, **limits)  # type: ignore[arg-type]


@settings(deadline=None)
@given(NODES, SHAPES, st.data())
def test_what_fits_is_never_more_than_the_nodes_have(
    cpus: list[int], shapes: list[Compute], data: st.DataObject
) -> None:
    """Gangs of one size are as many as ever; one alone always fits; the sum is never exceeded."""
    nodes = [NodeResources(count, 0) for count in cpus]
    found = fleet(*shapes, nodes=nodes)
    for shape in found.shapes:
        assert found.fits([shape]) and found.fits([shape] * num_room(shape, nodes))
        assert not found.fits([shape] * (num_room(shape, nodes) + 1))
    gangs = data.draw(st.lists(st.sampled_from(found.shapes), min_size=1, max_size=12))
    if found.fits(gangs):
        assert sum(gang.num_ranks for gang in gangs) <= sum(cpus)
        assert sum(gang.num_ranks == 4 for gang in gangs) <= sum(count // 4 for count in cpus)
    elif all(gang.num_ranks == 1 for gang in gangs):
        assert len(gangs) > sum(cpus)


@pytest.mark.parametrize(
    ("nodes", "gangs", "expected"),
    [
        ((8,), (FOUR, ONE, ONE, ONE, ONE), True),
        ((8,), (FOUR, ONE, ONE, ONE, ONE, ONE), False),
        ((8,), (TWO, FOUR, TWO), True),
        ((3, 5), (FOUR, ONE, TWO, ONE), True),
        ((3, 5), (TWO, TWO, FOUR), False),  # one node keeps a GPU that no gang of two can use
    ],
)
def test_gangs_are_packed_onto_nodes(
    nodes: tuple[int, ...], gangs: tuple[Compute, ...], expected: bool
) -> None:
    assert fleet(ONE, TWO, FOUR, nodes=gpu_nodes(*nodes)).fits(gangs) is expected


def test_max_gpus_counts_gpus_and_not_gangs() -> None:
    """Two sizes share the limit; alone, each is cut to whole gangs; tenths of a GPU add up."""
    both = fleet(ONE, FOUR, nodes=gpu_nodes(8), max_gpus=6)
    assert (both.num_slots, both.fits([FOUR, ONE, ONE])) == (6, True)
    assert not both.fits([FOUR, ONE, ONE, ONE]) and not both.fits([FOUR, FOUR])
    assert fleet(FOUR, nodes=gpu_nodes(8, 8), max_gpus=9).num_slots == 2
    tenth = Compute(num_gpus_per_rank=0.1)
    assert fleet(tenth, nodes=gpu_nodes(8), max_gpus=0.3).num_slots == 3
    halves = fleet(tenth, Compute(num_gpus_per_rank=0.7), nodes=gpu_nodes(1))
    assert halves.fits([*[tenth] * 3, halves.shapes[1]])
    assert num_gpus(FOUR) == 4


def test_gangs_that_span_nodes_share_them_with_small_ones() -> None:
    """A gang larger than any node takes from several; a small one has what is left of one."""
    found = fleet(ONE, FOUR, nodes=gpu_nodes(3, 3))
    assert (found.strategy(ONE), found.strategy(FOUR)) == ("STRICT_PACK", "PACK")
    assert found.fits([FOUR, ONE, ONE]) and not found.fits([FOUR, ONE, ONE, ONE])


def test_gangs_count_by_the_largest_that_there_is() -> None:
    """Beside other sweeps four small gangs are one seat of a large one, and one while alone."""
    found = fleet(ONE, FOUR, nodes=gpu_nodes(8))
    assert found.largest_room([ONE, ONE]) == found.largest_room([]) == 8
    assert (found.seats([ONE, ONE], 8), found.largest_room([ONE, FOUR])) == (2.0, 2)
    assert found.seats([ONE, ONE, FOUR], 2) == 1.5
    found.look(gpu_nodes(3))
    assert not found.has_nodes_for(FOUR) and found.has_nodes_for(ONE)
    assert found.largest_room([ONE, FOUR]) == 3


def test_demand_is_limited_by_its_number_alone() -> None:
    """Where nodes may come, gangs beyond those that there are make them come."""
    found = Fleet([ONE, FOUR], 3, gpu_nodes(4), grows=True)
    assert found.fits([FOUR, FOUR, ONE]) and not found.fits([FOUR, FOUR, ONE, ONE])


def test_the_shape_that_finds_no_room_is_named() -> None:
    with pytest.raises(UserError, match=r"Not even one gang fits the cluster: 4 rank\(s\) of 1"):
        fleet(ONE, FOUR, nodes=gpu_nodes(2))


def test_shapes_are_described_smallest_first() -> None:
    found = fleet(FOUR.with_micro_batch(2), ONE, FOUR, nodes=gpu_nodes(8))
    assert found.description == "1 rank(s) x 1 CPU(s) + 1 GPU(s) or 4 rank(s) x 1 CPU(s) + 1 GPU(s)"
