"""A journal with a trial in every state, and what a terminal shows of it."""

from __future__ import annotations

import io

from rich.console import Console

from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, Transition
from orchestrator.watch import Frame
from orchestrator.watch_screen import draw
from search_spaces.contracts import Progress, TrialState
from search_spaces.trial import Trial
from tests.orchestrator.factories import make_lineage
from tests.orchestrator.steered import CommandWorld
from tests.orchestrator.world import SWEEP

NOW = 10_000.0
DETAILS = (
    "Traceback (most recent call last):\nValueError: broke\nLog of (process 7 on 10.0.0.1, log {})"
)


def fill(
    world: CommandWorld, log: str = "/nowhere/rank.log"
) -> tuple[Journal, list[Trial], list[Trial]]:
    """Write a journal with a trial in every state; return it, open for writing."""
    broken, other = make_lineage(1, 3), make_lineage(2, 4)
    journal = Journal.open(world.journal_path, SWEEP, now=NOW - 1800)
    journal.rebuild(TrialGraph([*broken, *other]), world.store, now=NOW - 1800)
    payload = {
        "attempt": "a0001-aa",
        "failure": "error",
        "message": "[b] broke",
        "details": DETAILS.format(log),
        "will_retry": False,
    }
    failed = Transition(broken[0].key, TrialState.FAILED, "failed", "[b] broke", payload=payload)
    waits = [
        Transition(one.key, TrialState.BLOCKED, "blocked", payload={"cause": broken[0].key})
        for one in broken[1:]
    ]
    started = Transition(broken[0].key, TrialState.RUNNING, "started", payload={"attempt": "a1"})
    journal.record([started, failed, *waits], NOW - 900)
    journal.record([Transition(other[0].key, TrialState.SUCCEEDED, "succeeded")], NOW - 600)
    journal.record([Transition(other[1].key, TrialState.RUNNING, "started")], NOW - 60)
    cancelled = Transition(other[3].key, TrialState.CANCELLED, "given_up", payload={"cause": "x"})
    journal.obey({"id": "1", "verb": "cancel", "text": "1 trial cancelled."}, [cancelled], NOW - 9)
    point = Progress(trial_key=other[1].key, phase="train", step=30, num_steps=100, loss=0.25)
    vitals = {
        "running": [point.model_dump()],
        "num_slots": 2,
        "where": "Ray at home",
        "tokens_per_s": 1234.5,
        "eta_s": 500.0,
        "is_measured": True,
    }
    journal.show_life(vitals, NOW - 2)
    return journal, broken, other


def shown(frame: Frame, width: int = 140) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(draw(frame))
    return file.getvalue()
