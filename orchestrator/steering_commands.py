"""The commands that steer a sweep, live or stopped: pause, resume, cancel, retry and stop."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from orchestrator.arguments import SweepPath
from orchestrator.console import pasteable
from orchestrator.driver_life import DriverLife, driver_life
from orchestrator.inbox import Command, Inbox, Verb
from orchestrator.journal_lock import is_held
from orchestrator.journal_reader import JournalReader, TrialRow, open_reader
from orchestrator.submit_commands import Insecure, Python, Where, stop_job
from orchestrator.sweep_context import journal_path
from orchestrator.trial_names import GRAMMAR, completions, find_trials
from search_spaces.contracts import TrialState
from search_spaces.errors import UserError
from search_spaces.loading import load_sweep

ANSWER_S = 8.0  # how long a live driver is given: it looks twice a second, but may be committing
STOP_S = 60.0
DONE = (TrialState.SUCCEEDED, TrialState.SKIPPED)
LATER = "The sweep does not run now: this takes effect at the next 'tickets run'."

T = TypeVar("T")
app = typer.Typer()


def known_labels(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the labels that a shell may complete to; none where the sweep cannot be read."""
    with suppress(Exception), open_reader(journal_path(load_sweep(ctx.params["sweep"]))) as reader:
        return completions(reader.trials(), incomplete)
    return []


Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TRIAL]...", help=GRAMMAR, autocompletion=known_labels),
]


@app.command()
def pause(sweep: SweepPath) -> None:
    """Start no further trial of a sweep; those that run now end.

    The run goes on waiting and keeps its cluster: 'tickets resume' lets it go on, 'tickets stop'
    ends it. A sweep that is not running stays paused when it is run.
    """
    _send(sweep, "pause")


@app.command()
def resume(sweep: SweepPath) -> None:
    """Let a paused sweep go on."""
    _send(sweep, "resume")


@app.command()
def cancel(
    sweep: SweepPath,
    names: Names = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every trial that has not ended.")
    ] = False,
) -> None:
    """Cancel trials and all that wait for them; running ones end at once and leave nothing.

    They stay cancelled when the sweep is run again, until 'tickets retry' reopens them.
    """
    if bool(names) == everything:
        raise UserError(
            "tickets cancel: name the trials, or say --all for every one that has not ended; "
            "'tickets status' lists them."
        )
    _send(sweep, "cancel", names or [], everything)


@app.command()
def retry(
    sweep: SweepPath,
    names: Names = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Every trial that has failed; the default.")
    ] = False,
) -> None:
    """Try failed or cancelled trials again, with fresh budgets, and all that waited for them.

    Failed trials of a sweep that is not running are tried again by the next 'tickets run' anyway;
    cancelled ones only after this command.
    """
    if names and failed:
        raise UserError("tickets retry: name the trials or say --failed, not both.")
    _send(sweep, "retry", names or [], not names)


@app.command()
def stop(
    sweep: SweepPath,
    address: Where = None,
    insecure: Insecure = False,
    python: Python = sys.executable,
) -> None:
    """End the run of a sweep as Ctrl-C does: what is committed stays, running trials are given up.

    Works from any terminal that sees the journal, or with --address where it was submitted. The
    same 'tickets run' or 'tickets submit' goes on later.
    """
    if address:
        stop_job(sweep, address, insecure, python)
        return
    with open_reader(journal_path(load_sweep(sweep))) as reader:
        if not _life(reader).may_run:
            raise UserError(f"{sweep}: the sweep is {_life(reader).text}. There is no run to stop.")
        command, answer = _ask(reader, "stop")
        if answer is None:
            _interrupt(reader, command)
        if not _wait(lambda: not _life(reader).may_run or None, STOP_S):
            Inbox(reader.path).remove(command.id)  # not to strike later, when nobody waits for it
            raise UserError(
                f"{sweep}: the run was asked to end, but after {STOP_S:.0f} s it has not: "
                f"{_life(reader).text}. Try again, or end that process."
            )
        counts = reader.counts()
        num_left = sum(num for state, num in counts.items() if state not in DONE)
        typer.echo(
            f"Stopped: {counts[TrialState.SUCCEEDED]} trials are done and kept, {num_left} are "
            f"left. Go on with: tickets run {pasteable(sweep)}"
        )


def _send(
    sweep: Path, verb: Verb, names: list[str] | None = None, everything: bool = False
) -> None:
    """Leave a command for the sweep, and say what came of it.

    Raises:
        UserError: The names mean no trials, the sweep has nothing left to do, or its driver
            refuses.
    """
    with open_reader(journal_path(load_sweep(sweep))) as reader:
        rows = reader.trials()
        keys = tuple(row.key for row in find_trials(str(sweep), rows, names or []))
        if not _life(reader).may_run:
            _refuse_ended(sweep, rows)
            Inbox(reader.path).put(Command.new(verb, keys, everything))
            typer.echo(LATER)
            return
        _, answer = _ask(reader, verb, keys, everything)
        if answer is None:
            typer.echo(_unanswered(_life(reader)))
            return
        text, is_accepted = answer
    if not is_accepted:
        raise UserError(f"{sweep}: {text}")
    typer.echo(text)


def _ask(
    reader: JournalReader, verb: Verb, keys: tuple[str, ...] = (), everything: bool = False
) -> tuple[Command, tuple[str, bool] | None]:
    """Send a command to a live driver and wait for its answer: text, and whether it was done."""
    after_id = reader.last_event_id()
    command = Command.new(verb, keys, everything)
    Inbox(reader.path).put(command)

    def answer() -> tuple[str, bool] | None:
        for event in reader.events_of("command", after_id=after_id):
            if event.payload["id"] == command.id:
                return event.payload["text"], event.payload["accepted"]
        return None

    return command, _wait(answer, ANSWER_S)


def _interrupt(reader: JournalReader, command: Command) -> None:
    """Press Ctrl-C for somebody whose driver does not look into its inbox.

    Where that cannot be done the command stays: the driver may still look.

    Raises:
        UserError: There is no driver, though a process has its number.
    """
    life, inbox = _life(reader), Inbox(reader.path)
    if not (life.may_run and life.is_on_this_host):
        return
    if not is_held(reader.path):
        inbox.remove(command.id)
        raise UserError(
            f"{reader.path}: process {life.pid} is not the sweep's any more: its run is gone "
            "without a word. There is no run to stop; 'tickets run' goes on."
        )
    if inbox.remove(command.id):  # else the driver has it after all
        try:
            os.kill(life.pid, signal.SIGINT)
        except ProcessLookupError:
            pass
        except PermissionError:  # another user's
            inbox.put(command)


def _wait(value: Callable[[], T | None], patience_s: float) -> T | None:
    """Return the first value that is not None, or None when patience ends."""
    deadline_s = time.monotonic() + patience_s
    while (found := value()) is None and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return found


def _life(reader: JournalReader) -> DriverLife:
    return driver_life(reader.meta(), reader.path, time.time())


def _unanswered(life: DriverLife) -> str:
    if not life.may_run:  # it has ended meanwhile
        return LATER
    return (
        f"No answer within {ANSWER_S:.0f} s; the command waits until the run looks for it. "
        f"The sweep is {life.text}."
    )


def _refuse_ended(sweep: Path, rows: list[TrialRow]) -> None:
    if rows and all(row.state in DONE for row in rows):
        raise UserError(f"{sweep}: all of the sweep's {len(rows)} trials are done.")
