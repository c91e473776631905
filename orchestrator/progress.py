"""Live progress of a sweep for people: a bar with ETA, running trials, and scores so far."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table

from orchestrator.listeners import SilentListener, SweepOutcome
from orchestrator.retries import Cause
from search_spaces.canonical import short
from search_spaces.contracts import Failed, Progress, TrialResult
from search_spaces.trial import Trial


class LiveProgress(SilentListener):
    """Shows a sweep on a terminal; on anything else it prints one line for each finished trial."""

    def __init__(self, console: Console, num_trials: int) -> None:
        self._console = console
        self._labels: dict[str, str] = {}
        self._counted: set[str] = set()  # a failed trial that people reopen ends twice
        self._bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("trials", total=num_trials)
        self._live = Live(self._bar, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def started(self, trial: Trial, attempt: str) -> None:
        """Remember its readable name."""
        self._labels[trial.key] = trial.main_role.label

    def succeeded(self, trial: Trial, result: TrialResult) -> None:
        """Count it and print its scores."""
        self._say(trial, f"[green]done[/]  {_scores(result)}  {result.seconds['total']:.1f} s")
        self._count(trial)

    def reused(self, trial: Trial, result: TrialResult) -> None:
        """Count it."""
        self._count(trial)

    def failed(self, trial: Trial, failed: Failed, will_retry: bool) -> None:
        """Print why, and whether it is tried again."""
        end = "will be tried again" if will_retry else "given up"
        said = escape(failed.message)  # brackets in it are no markup
        self._say(trial, f"[red]failed[/] ({failed.failure}, {end}): {said}")
        if not will_retry:
            self._count(trial)

    def blocked(self, trial: Trial, cause: Cause) -> None:
        """Print what blocks it."""
        self._say(trial, f"[yellow]blocked[/] by {short(cause.key)}: {escape(cause.message)}")
        self._count(trial)

    def progress(self, progress: list[Progress]) -> None:
        """Show what is running."""
        table = Table.grid(padding=(0, 2))
        for item in progress:
            name = self._labels.get(item.trial_key, short(item.trial_key))
            steps = f"{item.step}/{item.num_steps} steps" if item.num_steps else ""
            loss = f"loss {item.loss:.3f}" if item.loss else ""
            table.add_row("  running", escape(name), item.phase, steps, loss)
        self._live.update(Group(self._bar, table))

    def steered(self, text: str) -> None:
        """Print what somebody has asked for and what came of it."""
        self._console.print(f"[bold]{escape(text)}[/]", highlight=False, soft_wrap=True)

    def finished(self, outcome: SweepOutcome) -> None:
        """Nothing: the command prints the summary."""

    def _count(self, trial: Trial) -> None:
        if trial.key not in self._counted:
            self._counted.add(trial.key)
            self._bar.advance(self._task)

    def _say(self, trial: Trial, text: str) -> None:
        label = escape(f"{trial.main_role.label:<44}")
        self._console.print(f"{label} {text}", highlight=False, soft_wrap=True)


def _scores(result: TrialResult) -> str:
    return "  ".join(
        f"{split} {result.metric} {score.metrics[result.metric]:.4f}"
        for split, score in sorted(result.scores.items(), reverse=True)
    )
