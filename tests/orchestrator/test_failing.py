"""What `tickets status` says of trials that failed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.failing import (
    NEXT_STEPS,
    describe_failure,
    failure_fields,
    failure_histories,
)
from orchestrator.journal_reader import EventRow, TrialRow
from orchestrator.screens import MAX_FAILURES_SHOWN, show_status
from search_spaces.contracts import FailureClass, TrialState

KEY = "ab" * 32


def failed(*failures: str, key: str = KEY) -> list[EventRow]:
    return [
        EventRow(n, 0.0, key, "failed", {"failure": name, "attempt": f"a{n}"})
        for n, name in enumerate(failures)
    ]


def row(state: TrialState = TrialState.FAILED, key: str = KEY, attempts: int = 4) -> TrialRow:
    return TrialRow(key, "round:toy:imp", "round", state, attempts, "it [broke]", None, 0.0)


def shown(rows: list[TrialRow], events: list[EventRow]) -> str:
    file = io.StringIO()
    counts = {TrialState.FAILED: len(rows)}
    show_status(
        Console(file=file, width=200), "toy", rows, counts, False, failure_histories(events)
    )
    return file.getvalue()


@pytest.mark.parametrize("failure", list(FailureClass))
def test_each_class_has_its_next_step(failure: FailureClass) -> None:
    """The remedy is a sentence and, where there is a field, names it."""
    assert NEXT_STEPS[failure].endswith(".")
    [history] = failure_histories(failed(failure.value)).values()
    assert describe_failure(row(attempts=1), history) == (
        f"round:toy:imp FAILED: {failure.value}",
        f"  attempts: 1 ({failure.value} 1)",
        "  cause: it [broke]",
        f"  next: {NEXT_STEPS[failure]}",
    )


def test_status_shows_class_attempts_cause_and_next_step() -> None:
    """Failures of all classes are counted apart; what is in brackets is no markup."""
    events = failed("preempted", "out_of_memory", "preempted", "out_of_memory")
    text = shown([row()], [*events, EventRow(9, 0.0, KEY, "started", {})])
    assert "4 (preempted 2, out_of_memory 2)" in text
    assert "round:toy:imp FAILED: out_of_memory\n" in text
    assert "  cause: it [broke]\n" in text
    assert "  next: Write a smaller resources.micro_batch_size" in text


def test_a_trial_that_recovered_only_counts_its_attempts() -> None:
    """No advice where nothing is left to do; a program reads the same."""
    done = row(TrialState.SUCCEEDED, attempts=2)
    text = shown([done], failed("hang"))
    assert "2 (hang 1)" in text and "next:" not in text
    history = failure_histories(failed("hang"))[KEY]
    assert failure_fields(done, history) == {"state": "SUCCEEDED", "failures": {"hang": 1}}
    assert failure_fields(row(), history) == {
        "state": "FAILED",
        "failures": {"hang": 1},
        "failure": "hang",
        "next": NEXT_STEPS[FailureClass.HANG],
    }
    assert failure_fields(row(TrialState.BLOCKED), None) == {"state": "BLOCKED", "failures": {}}


def test_many_failures_end_with_where_the_rest_is() -> None:
    keys = [f"{n:064x}" for n in range(MAX_FAILURES_SHOWN + 3)]
    events = [event for key in keys for event in failed("error", key=key)]
    text = shown([row(key=key) for key in keys], events)
    assert text.count("  next: ") == MAX_FAILURES_SHOWN
    assert "3 more failed; all of them: tickets status --json" in text
