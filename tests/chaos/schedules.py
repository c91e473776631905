"""Which process dies when: drawn from a seed, so that a schedule can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["driver", "rank", "raylet", "gcs", "mlflow"]
KINDS: tuple[Kind, ...] = ("driver", "rank", "raylet", "gcs", "mlflow")

# Attempts that one fault may end: two gangs run, each on a node of its own.
REACH: dict[Kind, int] = {"driver": 2, "rank": 1, "raylet": 1, "gcs": 2, "mlflow": 0}


@dataclass(frozen=True)
class Fault:
    """One ``kill -9``.

    Attributes:
        kind: What dies.
        num_events: Entries of the journal that are waited for, since the last fault was over.
        delay_s: Then waited.
        outage_s: Until what died is started again; a driver is at once, a rank by the driver.
        pick: Which one dies where there are several, modulo their number.
    """

    kind: Kind
    num_events: int
    delay_s: float
    outage_s: float
    pick: int

    @property
    def text(self) -> str:
        """The same for people."""
        return f"{self.kind} after {self.num_events} event(s) + {self.delay_s:.2f} s"


@dataclass(frozen=True)
class Schedule:
    """The faults of one sweep, in their order."""

    seed: int
    faults: tuple[Fault, ...]

    @property
    def text(self) -> str:
        """The same for people."""
        return ", then ".join(fault.text for fault in self.faults)


def schedule_of(seed: int) -> Schedule:
    """Return the schedule of a seed; five seeds in a row begin with the five kinds."""
    rng = random.Random(seed)
    kinds = [KINDS[seed % len(KINDS)]]
    if rng.random() < 0.5:  # often two faults meet one sweep
        kinds.append(rng.choice(KINDS))
    return Schedule(seed, tuple(_fault(rng, kind, n) for n, kind in enumerate(kinds)))


def _fault(rng: random.Random, kind: Kind, number: int) -> Fault:
    return Fault(
        kind=kind,
        num_events=rng.randint(0, 8) if number == 0 else rng.randint(0, 2),
        delay_s=round(rng.uniform(0, 1), 2),
        outage_s=round(rng.uniform(0, 3), 2),
        pick=rng.randrange(8),
    )
