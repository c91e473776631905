"""Which rank of a gang owns which tensor: it alone keeps the moments and takes the update."""

from __future__ import annotations

from collections.abc import Sequence


def owners_of(sizes: Sequence[int], num_ranks: int) -> list[int]:
    """Give each tensor to the rank that has least, the largest first.

    No rank has more than the mean and one tensor, and all ranks find the same.

    Args:
        sizes: Weights of each tensor that can move.
        num_ranks: Of the gang.

    Returns:
        The owner of each tensor. Among equal tensors the first comes first, among equal loads the
        lowest rank.
    """
    loads, owners = [0] * num_ranks, [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        owner = loads.index(min(loads))
        owners[place] = owner
        loads[owner] += sizes[place]
    return owners
