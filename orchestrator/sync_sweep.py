"""What a synchronisation knows of a sweep, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mlflow import MlflowClient

from orchestrator.choices import left_out
from orchestrator.finishing import ended
from orchestrator.journal_reader import open_reader
from orchestrator.judging import Judged, judge_sweep
from orchestrator.steering import held_back
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from orchestrator.tracking import experiment_of
from orchestrator.tracking_diff import is_at_hand
from orchestrator.tracking_sync import MirrorView
from orchestrator.transfer_judging import TransferTable, judge_transfers
from search_spaces.contracts import TrialResult, TrialState
from search_spaces.trial import Trial

PARENT = "the sweep's own run"
_OVER = {TrialState.FAILED, TrialState.BLOCKED, TrialState.SKIPPED}


@dataclass(frozen=True)
class Entry:
    """Something that was wrong, and what was done.

    Attributes:
        name: Of the trial; or what else of the sweep.
        key: Of the trial; "" where it is none.
        problem: What was wrong.
        remedy: What was done, or is to be.
        is_left: Whether it could not be mended.
    """

    name: str
    key: str
    problem: str
    remedy: str
    is_left: bool = False


@dataclass(frozen=True)
class SyncReport:
    """What a synchronisation found.

    Attributes:
        experiment: Where.
        num_trials: Committed trials.
        entries: All that was wrong.
        has_verdicts: Whether the sweep has ended, so that its verdicts were looked at.
        is_superseded: Whether those of another set of trials of this name are the current ones;
            they stay so.
        are_files_read: Whether files were compared by content; else by their size.
    """

    experiment: str
    num_trials: int
    entries: tuple[Entry, ...]
    has_verdicts: bool
    is_superseded: bool
    are_files_read: bool

    @property
    def num_left(self) -> int:
        """How many could not be mended."""
        return sum(entry.is_left for entry in self.entries)


class SyncedSweep:
    """What the store and the journal say of a sweep, and what became known of its mirror."""

    def __init__(self, context: SweepContext, store: Store, verify: bool) -> None:
        self.context, self.store, self.spec = context, store, context.spec
        self._verify, self.reads_files, self.is_superseded = verify, True, False
        self.results, self.failed = ended(context, store)
        self.found: dict[str, tuple[Trial, TrialResult]] = {
            trial.key: (trial, self.results[trial.key])
            for trial in context.trials
            if trial.key in self.results
        }
        self.has_ended = self._has_ended()
        self.experiment, self.sweep_hash = experiment_of(self.spec), context.info.sweep_hash

    @cached_property
    def judged(self) -> tuple[list[Judged], list[TransferTable]]:
        """Its verdicts and its transfer tables."""
        trials = self.context.trials
        judged = judge_sweep(self.spec, trials, self.results, self.failed)
        return judged, judge_transfers(self.spec, trials, self.results)

    def report(self, entries: list[Entry]) -> SyncReport:
        """Return what is told of it."""
        return SyncReport(
            self.experiment,
            len(self.found),
            tuple(entries),
            self.has_ended,
            self.is_superseded,
            self.reads_files,
        )

    def view(self, client: MlflowClient, experiment_id: str, parent_id: str) -> MirrorView:
        """Return how its runs are looked at; from then on it is known whether files are read."""
        place = client.get_experiment(experiment_id).artifact_location
        self.reads_files = self._verify or is_at_hand(place)
        name = self.spec.name
        return MirrorView(client, experiment_id, name, parent_id, self.store, self.reads_files)

    def _has_ended(self) -> bool:
        """Whether every trial has a result, or it is known why it will have none."""
        trials, path = self.context.trials, self.context.journal_path
        left = {trial.key for trial in trials if trial.key not in self.results}
        if left:
            left -= left_out(self.spec, trials, self.results.get).keys()
            left -= held_back(path, trials).keys()
        if not left or not path.exists():
            return not left
        with open_reader(path) as reader:
            states = {row.key: row.state for row in reader.trials()}
        return all(states.get(key) in _OVER for key in left)
