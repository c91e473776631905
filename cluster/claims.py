"""How many gangs each sweep of a shared cluster may hold: arithmetic over what they all tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TURN_S = 300.0  # a new gang imports its libraries first: seats do not change hands more often
_ROUNDING = 1e-9
_MOST = 1e6


@dataclass(frozen=True)
class Claim:
    """What one sweep tells the others that share its cluster.

    Attributes:
        driver: Unique name of the process that drives it.
        sweep: Its name, for people.
        priority: Its weight: twice the priority, twice the share.
        gang_share: Fraction of the cluster that one of its gangs takes, in (0, 1].
        num_wanted: Gangs that it has work for now.
        num_held: Gangs of it that have their resources.
        served_s: What it has had so far: seconds of the whole cluster, divided by the priority.
    """

    driver: str
    sweep: str
    priority: float
    gang_share: float
    num_wanted: int
    num_held: int
    served_s: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether one can reckon with it: it may come from a driver of another version."""
        return (
            0 < self.priority < _MOST
            and 1 / _MOST < self.gang_share <= 1
            and 0 <= self.num_wanted < _MOST
            and 0 <= self.num_held < _MOST
            and 0 <= self.served_s < float("inf")
        )

    @property
    def is_waiting(self) -> bool:
        """Whether it has work for more gangs than it holds."""
        return self.num_wanted > self.num_held


def allowances(claims: Sequence[Claim], turn_s: float = TURN_S) -> dict[str, int]:
    """Return how many gangs each driver may hold; all who know the claims find the same.

    Seats are given one by one to the sweep that has the smallest part of the cluster for its
    priority (weighted max-min fairness), until the cluster is full or nobody wants more. Among
    equals the one goes first that has been served less, counted in whole turns, and then the one
    that holds a gang already: where there are fewer seats than sweeps, they take turns.

    Args:
        claims: One of each driver.
        turn_s: Seconds of the whole cluster that make a turn.
    """
    counts = {claim.driver: 0 for claim in claims}
    asking = [claim for claim in claims if claim.num_wanted]
    room = 1.0 + _ROUNDING
    while asking:
        claim = min(asking, key=lambda one: _place(one, counts[one.driver], turn_s))
        if claim.gang_share > room:
            asking.remove(claim)
            continue
        room -= claim.gang_share
        counts[claim.driver] += 1
        if counts[claim.driver] == claim.num_wanted:
            asking.remove(claim)
    return counts


def _place(claim: Claim, count: int, turn_s: float) -> tuple[float, int, int, str]:
    has = round(count * claim.gang_share / claim.priority, 9)
    return has, int(claim.served_s // turn_s), -min(claim.num_held, 1), claim.driver
