"""The commands that look at a sweep from its journal alone: watch and logs."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.live import Live

from orchestrator.arguments import AsJson, SweepPath
from orchestrator.console import make_console
from orchestrator.journal_reader import open_reader
from orchestrator.steering_commands import known_labels
from orchestrator.submit_commands import Insecure, Python, Where, show_logs
from orchestrator.sweep_context import journal_path
from orchestrator.trial_log import log_lines, trial_log
from orchestrator.trial_names import GRAMMAR, find_trials
from orchestrator.watch import Watcher
from orchestrator.watch_screen import draw
from search_spaces.errors import UserError
from search_spaces.loading import load_sweep

app = typer.Typer()


@app.command()
def watch(
    sweep: SweepPath,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    every: Annotated[
        float, typer.Option(help="Seconds between two looks.", min=0.2, max=3600)
    ] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Watch a sweep from any terminal: states, running trials, speed, failures, time left.

    Reads the journal and nothing else: it disturbs no run, needs no cluster, and also shows a
    sweep that has ended or died. Running trials are as old as the run's heartbeat, at most about
    five seconds. Ctrl-C ends the watching, not the sweep.
    """
    with open_reader(journal_path(load_sweep(sweep))) as reader:
        watcher = Watcher(reader)
        if as_json:
            typer.echo(json.dumps(asdict(watcher.look(time.time())), indent=2))
            return
        console = make_console(is_live=True)
        if once or not console.is_terminal:
            console.print(draw(watcher.look(time.time())))
            return
        with Live(console=console, auto_refresh=False, screen=True) as live:
            try:
                while True:
                    live.update(draw(watcher.look(time.time())), refresh=True)
                    time.sleep(every)
            except KeyboardInterrupt:
                return


@app.command()
def logs(
    sweep: SweepPath,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[TRIAL]", help=GRAMMAR, autocompletion=known_labels),
    ] = None,
    as_json: AsJson = False,
    address: Where = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="With --address: go on to the job's end; exit as it does."),
    ] = False,
    insecure: Insecure = False,
    python: Python = sys.executable,
) -> None:
    """Show all that is known of a trial: attempts, failures, tracebacks and its rank's log.

    The log is that of the process that failed, where it is on this machine; else its path and node
    are named. With --address and no trial: what the submitted sweep's job has printed, whether it
    runs or has ended.
    """
    if address:
        show_logs(sweep, name, address, follow, as_json, insecure, python)
        return
    if name is None or follow:
        raise UserError(
            f"tickets logs {sweep}: name one trial; 'tickets status' lists them. The output of a "
            "submitted sweep's job is shown with --address, and --follow."
        )
    with open_reader(journal_path(load_sweep(sweep))) as reader:
        rows = find_trials(str(sweep), reader.trials(), [name])
        if len(rows) > 1:
            raise UserError(f"{sweep}: '{name}' means {len(rows)} trials; name one of them.")
        log = trial_log(reader, rows[0])
    if as_json:
        typer.echo(json.dumps(asdict(log), indent=2))
        return
    times = [_time(event.at) for event in log.events]
    typer.echo("\n".join(log_lines(log, times)))


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="seconds")[:19] + "Z"
