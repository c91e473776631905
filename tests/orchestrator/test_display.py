"""What people are shown: any message as it is, and no display that ends a sweep."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.ending import show_places, show_verdicts
from orchestrator.journal_reader import TrialRow
from orchestrator.listeners import ListenerGroup, SilentListener
from orchestrator.progress import LiveProgress
from orchestrator.retries import Cause
from orchestrator.screens import show_status
from orchestrator.sweep_context import SweepContext
from search_spaces.contracts import Failed, FailureClass, TrialState
from search_spaces.places import masked
from search_spaces.trial import Trial
from tests.orchestrator.small_worlds import make_sweep, small_world

# Gloo's own words when a rank dies: closing tags to a display that reads markup.
GLOO = "RuntimeError: [/__w/pytorch/gloo/transport/tcp/pair.cc:534] [a, b] Connection closed"


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def first_trial() -> Trial:
    return small_world()[0][0]


def test_brackets_in_a_failure_are_shown_as_they_are() -> None:
    """A message is text, never markup: it neither raises nor loses a word."""
    screen, trial = console(), first_trial()
    with LiveProgress(screen, 1) as progress:
        failed = Failed(
            trial_key=trial.key,
            attempt="a0001-ff",
            failure=FailureClass.INFRASTRUCTURE,
            message=GLOO,
        )
        progress.failed(trial, failed, will_retry=False)
        progress.blocked(trial, Cause(trial.key, FailureClass.INFRASTRUCTURE, GLOO))
    assert said(screen).count(GLOO) == 2
    row = TrialRow(trial.key, "dense", "dense", TrialState.FAILED, 1, GLOO, None, 0.0)
    screen = console()
    show_status(screen, "toy", [row], {TrialState.FAILED: 1})
    assert GLOO in said(screen)


def test_a_trial_that_people_reopen_is_counted_once() -> None:
    """It failed, was tried again and ended well: the bar must not pass its end."""
    trial, result = small_world()[0][0], next(iter(small_world()[1].values()))
    failed = Failed(
        trial_key=trial.key, attempt="a0001-ff", failure=FailureClass.ERROR, message="broke"
    )
    with LiveProgress(console(), 1) as progress:
        progress.failed(trial, failed, will_retry=False)
        progress.succeeded(trial, result)
        (task,) = progress._bar.tasks
        assert task.completed == 1


@pytest.mark.parametrize(("has_ended", "num_running"), [(True, 1), (True, 0), (False, 1)])
def test_status_says_that_a_run_was_interrupted(has_ended: bool, num_running: int) -> None:
    """Only where trials are RUNNING and nobody runs them; the remedy is the same command."""
    screen = console()
    show_status(screen, "toy", [], {TrialState.RUNNING: num_running}, has_ended)
    shown = " ".join(said(screen).split())
    assert ("Type the same 'tickets run' again" in shown) is (has_ended and num_running == 1)


def test_a_listener_that_breaks_is_left_out() -> None:
    """The sweep goes on, and the other listeners are told everything."""

    class Broken(SilentListener):
        def started(self, trial: Trial, attempt: str) -> None:
            raise RuntimeError("display")

    class Counting(SilentListener):
        num_started = 0

        def started(self, trial: Trial, attempt: str) -> None:
            self.num_started += 1

    counting = Counting()
    group = ListenerGroup([Broken(), counting])
    group.started(first_trial(), "a0001-ff")
    group.started(first_trial(), "a0002-ff")
    assert counting.num_started == 2


def make_context() -> SweepContext:
    return SweepContext(make_sweep(), {}, {}, tuple(small_world()[0]))


def test_the_end_names_the_best_ticket_and_the_flags(tmp_path: Path) -> None:
    """Verdict table, one sentence for each curve, and a lineage command with a final's key."""
    screen, context = console(), make_context()
    rows = show_verdicts(screen, context, small_world()[1], {})
    show_places(screen, context, tmp_path / "sweep.yaml", rows)
    text = said(screen)
    best = [row for row in rows if row.is_best]
    assert ("* yes" in text) == bool(best)
    for row in rows:
        assert f"{row.ticket_mean:.4f}" in text
    key = text.partition("lineage ")[2].split()[0]
    assert any(trial.key.startswith(key) for trial in context.trials)
    if any(row.flags for row in rows):
        assert "flags" in text


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://***@host/db"),
        ("https://host:5000/path", "https://host:5000/path"),
        ("sqlite:///runs/mlflow.db", "sqlite:///runs/mlflow.db"),
        ("s3://key:secret@bucket/a?region=x", "s3://***@bucket/a?region=x"),
        ("https://host/a?sig=abc&x=1", "https://host/a?sig=***&x=1"),
        ("Authorization: Bearer 0123456789abcdef", "Authorization: Bearer ***"),
        ("Authorization: Basic YW5uOnMz", "Authorization: Basic ***"),
        ("{'Authorization': 'Basic YW5uOnMz'}", "{'Authorization': 'Basic ***'}"),
        ("password='a b' host=c", "password=*** host=c"),
        ('password="a \\" b" host=c', "password=*** host=c"),
        ("at '?password=it's' now", "at '?password=***' now"),
        ("at '?token=abc', 'b'", "at '?token=***', 'b'"),
        ('{"token": "a b", "x": "y"}', '{"token": "***", "x": "y"}'),
        ("{'access_token': 'a', 'x': 'y'}", "{'access_token': \"***\", 'x': 'y'}"),
        ('{"tokenizer": "bert", "token": null}', '{"tokenizer": "bert", "token": null}'),
        ("AccountName=ann;AccountKey=czM=", "AccountName=ann;AccountKey=***"),
        ("a basic tokenization of bearers", "a basic tokenization of bearers"),
    ],
)
def test_passwords_are_not_printed(uri: str, shown: str) -> None:
    """A URI is shown without the password in it, and so is what a library prints of a request."""
    assert masked(uri) == masked(shown) == shown
