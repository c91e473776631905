"""One sweep's part of a cluster that others use as well."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from cluster.board import Board, Table
from cluster.claims import TURN_S, Claim, allowances

SCATTERED_S = 60.0  # a gang that has room gets it within seconds


@dataclass(frozen=True)
class Sharing:
    """How a sweep shares its cluster.

    Attributes:
        sweep: Its name, for people.
        priority: Its weight beside other sweeps.
        max_gpus: Most GPUs that it may have at all; None = as many as fit.
        turn_s: Seconds of the whole cluster after which seats may change hands.
    """

    sweep: str = ""
    priority: float = 1.0
    max_gpus: float | None = None
    turn_s: float = TURN_S


class Share:
    """Tells the others what this sweep wants and holds, and says what it may hold."""

    def __init__(
        self,
        table: Table,
        sharing: Sharing,
        clock: Callable[[], float] = time.monotonic,
        look: Callable[[], None] = lambda: None,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin with nothing held; the others learn of it after ``start``.

        Args:
            table: Where the drivers of the cluster read each other.
            sharing: How this sweep shares.
            clock: Monotonic seconds.
            look: Called in the background in each exchange with the head.
            guard: Called in the background each second, even while an exchange hangs.
        """
        driver = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.board = Board(table, driver, clock, look, guard)
        self._turn_s = sharing.turn_s
        self._clock = clock
        self._told_at_s = self._short_since_s = clock()
        self._claim = Claim(
            driver=driver,
            sweep=sharing.sweep,
            priority=sharing.priority,
            gang_share=1.0,
            num_wanted=0,
            num_held=0,
        )

    def tell(self, num_wanted: int, num_held: int, room: int) -> None:
        """Let the others know what this sweep wants and holds now, all in gangs of one size.

        Args:
            num_wanted: Gangs that it has work for.
            num_held: Gangs that have their resources.
            room: Gangs that would fit the living nodes if it were alone. More are not wanted of
                the others: what they gave back would lie idle.
        """
        num_wanted = min(num_wanted, max(room, num_held))
        now_s = self._clock()
        claim = self._claim
        cluster_s = claim.num_held * claim.gang_share * (now_s - self._told_at_s)
        served_s = claim.served_s + cluster_s / claim.priority
        if num_wanted and not claim.num_wanted:  # what it left unused is lost, not saved up
            asking = [one.served_s for one in self.board.others if one.num_wanted]
            served_s = max(served_s, min(asking, default=0.0))
        self._told_at_s = now_s
        self._claim = replace(
            claim,
            gang_share=min(1.0, self._pressure(now_s) / max(room, 1)),
            num_wanted=num_wanted,
            num_held=num_held,
            served_s=served_s,
        )
        self.board.tell(self._claim)

    def allowance(self, num_slots: int, num_open: int) -> int:
        """Return how many gangs this sweep may have.

        Args:
            num_slots: What it may have while no other wants any.
            num_open: What it has asked for; given back only where another waits.
        """
        others = self.board.others
        if not any(claim.num_wanted for claim in others):
            return num_slots
        fair = self._fair()
        return fair if any(claim.is_waiting for claim in others) else max(fair, num_open)

    def _pressure(self, now_s: float) -> int:
        """Return the factor by which a gang counts for more than its part of the cluster.

        It doubles for every while in which the sweep was due a gang and had none at all. What the
        others gave back may be scattered over nodes where no gang of this one fits; in the end
        they clear the whole cluster for it.
        """
        is_short = not self._claim.num_held and self._claim.is_waiting and self._fair() > 0
        self._short_since_s = self._short_since_s if is_short else now_s
        return 1 << min(16, int((now_s - self._short_since_s) / SCATTERED_S))

    def _fair(self) -> int:
        claims: list[Claim] = [self._claim, *self.board.others]
        return allowances(claims, self._turn_s)[claims[0].driver]
