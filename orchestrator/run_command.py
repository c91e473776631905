"""The command `tickets run`: a whole sweep, and in which order it ends when it is stopped."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator.arguments import SweepPath
from orchestrator.choices import planned
from orchestrator.console import make_console, pasteable
from orchestrator.ctrl_c import CtrlC
from orchestrator.ending import report_folder, show_places, show_verdicts
from orchestrator.listeners import SweepOutcome
from orchestrator.mending import mended
from orchestrator.mirror_lag import lag_path
from orchestrator.screens import plan_summary
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from search_spaces.contracts import TrialState
from search_spaces.errors import ClusterLostError, UserError


def run(
    sweep: SweepPath,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Take over from a driver that shows no life any more."),
    ] = False,
    expected: Annotated[str | None, typer.Option("--expect-plan", hidden=True)] = None,
) -> None:
    """Run a sweep on Ray; what is committed already is reused, so the same command resumes."""
    console = make_console(is_live=True)
    with CtrlC() as ctrl_c:
        try:
            outcome = _run(sweep, console, take_over, expected, ctrl_c)
        except KeyboardInterrupt:  # no trial runs: before the first one, or after the last
            console.print(_go_on(sweep), highlight=False, soft_wrap=True, markup=False)
            raise typer.Exit(ctrl_c.exit_code) from None
        except ClusterLostError as error:
            raise ClusterLostError(f"{error}\n{_go_on(sweep)}") from error
        if outcome:
            _close(console, sweep, outcome, ctrl_c.exit_code)


def _run(
    sweep: Path, console: Console, take_over: bool, expected: str | None, ctrl_c: CtrlC
) -> SweepOutcome | None:
    """Run what is left to run and show the end; None where nothing was left."""
    context = SweepContext.open(sweep)
    context.require_plan(expected)
    spec, store = context.spec, Store(context.spec.store)
    made = mended(context, store, lambda: planned(context, store))
    console.print(plan_summary(made), highlight=False, soft_wrap=True)
    from orchestrator.finishing import mirror_finished, settle, tracker_of

    tracker = tracker_of(context)
    if made.num_run + made.num_wait == 0:
        settle(context, store)
        files = _show_end(console, context, store, sweep)
        mirror_finished(context, tracker, store, files)
        return None
    from orchestrator.listeners import ListenerGroup
    from orchestrator.progress import LiveProgress
    from orchestrator.running import run_on_ray
    from orchestrator.tracking_listener import TrackingListener

    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    lag, trials = lag_path(context.journal_path), context.trials
    tracking = TrackingListener(tracker, spec, store, say, lag_path=lag, trials=trials)
    with LiveProgress(console, len(context.trials)) as progress:
        both = ListenerGroup([progress, tracking])
        outcome = run_on_ray(context, both, say, ctrl_c.check, take_over, tracking.num_missing)
    if not (is_mirrored := tracking.close()):
        command = f"tickets sync {pasteable(sweep)}"
        say(f"Not all results reached MLflow. They are in the store: {command}")
    if not outcome.cancelled:
        files = _show_end(console, context, store, sweep)
        if files and is_mirrored:
            try:
                tracker.log_report(files)
            except UserError as error:  # the sweep is done and its report written
                say(f"The report did not reach MLflow: {error}")
    return outcome


def _show_end(
    console: Console, context: SweepContext, store: Store, sweep: Path
) -> tuple[Path, ...]:
    """Show verdicts and places, write the report; return its files where they are new."""
    from orchestrator.finishing import gathered, report_anew

    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    results, failed = gathered(context, store, say)
    if not results:
        return ()
    rows = show_verdicts(console, context, results, failed)
    files: tuple[Path, ...] = ()
    try:
        files = report_anew(context, results, failed, report_folder(context.spec), say)
    except UserError as error:
        say(f"No report: {error}")
    show_places(console, context, sweep, rows)
    return files


def _close(console: Console, sweep: Path, outcome: SweepOutcome, stopped_code: int) -> None:
    """Say how it ended, and leave with the exit code that says so too."""
    text = "  ".join(f"{state.value} {num}" for state, num in outcome.counts.items() if num)
    console.print(text, highlight=False)
    if outcome.cancelled:
        console.print(_go_on(sweep), soft_wrap=True)
        raise typer.Exit(stopped_code)
    if outcome.counts.get(TrialState.FAILED, 0):
        console.print(f"Some trials failed. See why with: tickets status {pasteable(sweep)}")
        raise typer.Exit(1)


def _go_on(sweep: Path) -> str:
    return f"Stopped; nothing is lost. Go on with: tickets run {pasteable(sweep)}"
