"""A folder in which sweeps are driven on a simulated clock, with a real store and journal."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from orchestrator.costs import any_compute
from orchestrator.driver import run_sweep
from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, SweepInfo
from orchestrator.listeners import ListenerGroup, SilentListener
from orchestrator.policies import LadderPolicy
from orchestrator.retries import DEFAULT_BUDGETS, DEFAULT_RULES
from orchestrator.store import Store
from tests.orchestrator.factories import make_request
from tests.orchestrator.simulated import FakeClock, SimulatedExecutor

SWEEP = SweepInfo(name="toy", sweep_hash="h", spec_yaml="")


class Diary(SilentListener):
    """Writes down what it is told."""

    def __init__(self):
        self.lines = []
        self.num_progress = 0

    def started(self, trial, attempt):
        self.lines.append(("started", trial.key))

    def succeeded(self, trial, result):
        self.lines.append(("succeeded", trial.key))

    def reused(self, trial, result):
        self.lines.append(("reused", trial.key))

    def failed(self, trial, failed, will_retry):
        self.lines.append(("retry" if will_retry else "failed", trial.key))

    def blocked(self, trial, cause):
        self.lines.append(("blocked", trial.key))

    def progress(self, progress):
        self.num_progress += len(progress)

    def finished(self, outcome):
        self.lines.append(("finished", outcome))

    def of(self, kind):
        return [key for what, key in self.lines if what == kind]


class World:
    """A folder with a store and a journal, in which sweeps are run one after another."""

    def __init__(self, folder):
        self.store = Store(f"{folder}/store")
        self.journal_path = Path(folder) / "journal.db"
        self.diary = Diary()
        self.executor = None

    def run(
        self,
        trials,
        clock=None,
        policy=None,
        request=make_request,
        executor=SimulatedExecutor,
        later=(),
        check=lambda: None,
        compute_for=any_compute,
        rules=DEFAULT_RULES,
        **options,
    ):
        clock = clock or FakeClock()
        self.executor = executor(clock, self.store.uri, [*trials, *later], **options)
        with Journal.open(self.journal_path, SWEEP, now=0.0) as journal:
            return run_sweep(
                trials,
                self.store,
                journal,
                self.executor,
                policy or LadderPolicy(),
                DEFAULT_BUDGETS,
                ListenerGroup([self.diary]),
                clock,
                partial(request, self.store.uri),
                check,
                rules,
                compute_for=compute_for,
            )

    @property
    def submitted(self):
        return [key for key, _ in self.executor.submitted]

    def rows(self):
        with Journal.read_only(self.journal_path) as reader:
            return {row.key: row for row in reader.trials()}

    def events(self):
        with Journal.read_only(self.journal_path) as reader:
            return reader.events()


def assert_journal_agrees(world, trials):
    """What the journal says is what a journal made from the store alone would say."""
    before = world.rows()
    other_path = world.journal_path.with_name("other.db")
    with Journal.open(other_path, SWEEP, now=0.0) as other:
        other.rebuild(TrialGraph(trials), world.store, now=0.0)
        for row in other.trials():
            assert row.state is before[row.key].state
            assert (row.label, row.seconds) == (before[row.key].label, before[row.key].seconds)
