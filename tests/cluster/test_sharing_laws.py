"""Drivers that share by the real claims, on a clock and a cluster of numbers: everybody ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.share import Share, Sharing
from tests.cluster.shared_table import Hands, SharedTable

TURN_S = 20.0
_LAG_S = 4  # until each has read what the other has told


@dataclass
class Driver:
    """A sweep of equal trials; what its executor does, without processes.

    Attributes:
        share: The real one.
        size: CPUs of a gang.
        trial_s: Length of a trial.
        num_left: Trials that have not begun.
        most: Gangs that it may have at all.
        gangs: Seconds that each gang's trial goes on.
        dry_s: Longest time with work and without a gang.
    """

    share: Share
    size: int
    trial_s: int
    num_left: int
    most: int
    gangs: list[int] = field(default_factory=list)
    waited_s: int = 0
    dry_s: int = 0

    def step(self, num_free: int, num_cpus: int) -> int:
        """Live for a second; return the CPUs that are free then."""
        num_before = len(self.gangs)
        self.gangs = [left - 1 for left in self.gangs]
        num_wanted = min(self.most, sum(left > 0 for left in self.gangs) + self.num_left)
        self.share.tell(num_wanted, num_before, num_cpus // self.size)
        allowed = self.share.allowance(self.most, num_before)
        for _ in range(num_before - allowed):
            if 0 in self.gangs:
                self.gangs.remove(0)
        while len(self.gangs) < min(allowed, num_wanted):
            if num_free + (num_before - len(self.gangs)) * self.size < self.size:
                break
            self.gangs.append(0)
        for index, left in enumerate(self.gangs):
            if not left and self.num_left:
                self.gangs[index], self.num_left = self.trial_s, self.num_left - 1
        self.gangs = [left for left in self.gangs if left]
        self.waited_s = self.waited_s + 1 if self.num_left and not self.gangs else 0
        self.dry_s = max(self.dry_s, self.waited_s)
        return num_free + (num_before - len(self.gangs)) * self.size


@st.composite
def _drivers(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, int, float]]]:
    num_cpus = draw(st.sampled_from([1, 2, 4, 8]))
    one = st.tuples(
        st.integers(1, num_cpus), st.integers(1, 9), st.integers(1, 40), st.sampled_from([1.0, 3.0])
    )
    return num_cpus, draw(st.lists(one, min_size=2, max_size=4))


@settings(max_examples=25, deadline=None)
@given(_drivers())
def test_everybody_ends_and_nobody_waits_for_anothers_end(
    given: tuple[int, list[tuple[int, int, int, float]]],
) -> None:
    """However many CPUs, sweeps, sizes, lengths and priorities there are.

    Nobody with work is without a gang for longer than two turns of each other sweep, each as long
    as its priority makes it, and the trials with which they end.
    """
    num_cpus, wishes = given
    table, clock = SharedTable(), Hands()
    drivers = [
        Driver(
            Share(table, Sharing(priority=priority, turn_s=TURN_S), clock),
            size,
            trial_s,
            num_trials,
            num_cpus // size,
        )
        for size, trial_s, num_trials, priority in wishes
    ]
    num_free = num_cpus
    work_s = sum(one.trial_s * one.num_left for one in drivers)
    for now_s in range(4 * work_s + 100):
        clock.now_s = float(now_s)
        for one in drivers:
            one.share.board.beat()
        for one in drivers:
            num_free = one.step(num_free, num_cpus)
        assert 0 <= num_free <= num_cpus
        if not any(one.num_left or one.gangs for one in drivers):
            break
    assert not any(one.num_left or one.gangs for one in drivers)
    turn_s = TURN_S * max(priority for _, _, _, priority in wishes)
    trial_s = max(trial_s for _, trial_s, _, _ in wishes)
    bound_s = 2 * (len(drivers) - 1) * (turn_s + trial_s + _LAG_S)
    assert max(one.dry_s for one in drivers) <= bound_s
