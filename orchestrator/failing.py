"""What is written of a failed attempt, and what `tickets status` says of trials that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from orchestrator.journal import Transition
from orchestrator.journal_reader import EventRow, TrialRow
from orchestrator.retries import Decision
from search_spaces.contracts import Failed, FailureClass, TrialState
from search_spaces.trial import Trial

NEXT_STEPS: Mapping[FailureClass, str] = {
    FailureClass.USER_ERROR: "Mend what the message names; it is never tried again by itself.",
    FailureClass.DIVERGED: "Lower recipe.learning_rate, add warm-up or set recipe.max_grad_norm. "
    "The same run on other hardware may differ: retries.diverged: retry.",
    FailureClass.OUT_OF_MEMORY: "Write a smaller resources.micro_batch_size (same results, less "
    "memory), let fewer gangs share a device or node, or raise retries.out_of_memory.",
    FailureClass.PREEMPTED: "Nothing is wrong with it: run it again when nodes stay longer, or "
    "raise retries.preempted.",
    FailureClass.INFRASTRUCTURE: "Look at the log and the node that the message names; then run it "
    "again, or raise retries.infrastructure.",
    FailureClass.HANG: "Look at the end of the log that the message names; if the work is just "
    "slow, raise the limit in retries.hang_after_s.",
    FailureClass.ERROR: "The journal holds the traceback (event 'failed', details); if it is no "
    "fault of the sweep's, please report it.",
}


@dataclass(frozen=True)
class FailureHistory:
    """All failed attempts of one trial, those of earlier runs among them.

    Attributes:
        counts: Failed attempts by class, in the order in which each class came first.
        last: Class of the last one.
    """

    counts: Mapping[FailureClass, int]
    last: FailureClass

    @property
    def text(self) -> str:
        """The attempts by class in a few words."""
        return ", ".join(f"{failure.value} {num}" for failure, num in self.counts.items())


NO_FAILURES: Mapping[str, FailureHistory] = MappingProxyType({})


def failure_transitions(
    trial: Trial, failed: Failed, decision: Decision, note: str = ""
) -> list[Transition]:
    """Return what the journal is told of a failed attempt and of what it blocks.

    Args:
        trial: Whose attempt failed.
        failed: How; its message tells people of the note too.
        decision: What the scheduler made of it.
        note: What the next attempt does otherwise.
    """
    payload = failed.model_dump(mode="json", exclude={"trial_key"})
    payload |= {"will_retry": decision.will_retry, "not_before": decision.not_before}
    payload |= {"note": note} if note else {}
    state = TrialState.PENDING if decision.will_retry else TrialState.FAILED
    reached = f"{trial.main_role.label} failed: {failed.message}"
    return [
        Transition(trial.key, state, "failed", message=failed.message, payload=payload),
        *(
            Transition(key, TrialState.BLOCKED, "blocked", reached, payload={"cause": trial.key})
            for key in decision.blocked
        ),
    ]


def failure_histories(events: Iterable[EventRow]) -> dict[str, FailureHistory]:
    """Return the failures of each trial that has some, from the journal's events in order."""
    counts: dict[str, Counter[FailureClass]] = {}
    last: dict[str, FailureClass] = {}
    for event in events:
        if event.kind == "failed":
            failure = FailureClass(event.payload["failure"])
            counts.setdefault(event.key, Counter())[failure] += 1
            last[event.key] = failure
    return {key: FailureHistory(dict(found), last[key]) for key, found in counts.items()}


def failure_fields(row: TrialRow, history: FailureHistory | None) -> dict[str, Any]:
    """Return what `status --json` adds to a row: its state, failures by class, and next step."""
    fields: dict[str, Any] = {"state": row.state.value, "failures": {}}
    if history:
        fields["failures"] = {failure.value: num for failure, num in history.counts.items()}
        if row.state is TrialState.FAILED:
            fields |= {"failure": history.last.value, "next": NEXT_STEPS[history.last]}
    return fields


def describe_failure(row: TrialRow, history: FailureHistory) -> tuple[str, ...]:
    """Return the lines that tell people why a trial failed for good, and what to do."""
    return (
        f"{row.label} {row.state.value}: {history.last.value}",
        f"  attempts: {row.attempts} ({history.text})",
        f"  cause: {row.message}",
        f"  next: {NEXT_STEPS[history.last]}",
    )
