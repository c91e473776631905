"""Worlds whose sweeps are sent commands while they run."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.graph import TrialGraph
from orchestrator.inbox import Command, Inbox
from orchestrator.journal import Journal
from orchestrator.listeners import SilentListener
from search_spaces.errors import UserError
from tests.orchestrator.factories import make_lineage
from tests.orchestrator.simulated import SimulatedExecutor
from tests.orchestrator.world import SWEEP, World


class Told(SilentListener):
    """Writes down what people are told."""

    def __init__(self):
        self.said = []

    def steered(self, text):
        self.said.append(text)


class SteeredWorld(World):
    """A world whose sweeps are sent commands, some of them while they run."""

    def __init__(self, folder):
        super().__init__(folder)
        self.diary = self.told = Told()
        self.inbox = Inbox(self.journal_path)

    def send(self, verb, *trials, everything=False):
        command = Command.new(verb, tuple(trial.key for trial in trials), everything)
        self.inbox.put(command)
        return command

    def answers(self):
        return [e.payload["text"] for e in self.events() if e.kind == "command"]

    def states(self):
        return {key: row.state for key, row in self.rows().items()}


class At:
    """Does something at the n-th round of the driver's loop; to be its ``check``."""

    def __init__(self, **actions):
        self.round = 0
        self.actions = {int(name[1:]): action for name, action in actions.items()}

    def __call__(self):
        self.round += 1
        self.actions.get(self.round, lambda: None)()


SPEC = """
name: toy
models: [{{name: tiny, source: model}}]
tasks: [{{name: toy, source: {{kind: files, train: train.jsonl, report: dev.jsonl}}}}]
seeds: [1, 2, 3]
schedule: {{kind: levels, levels: [0.3]}}
recipe: {{epochs: 1, batch_size: 16, learning_rate: 1.0e-3}}
store: {root}/store
"""
TRIALS = make_lineage(num_rounds=4)


class SlowExecutor(SimulatedExecutor):
    """Waits a little, so that a loop that has nothing to do leaves the machine alone."""

    def wait(self, timeout_s):
        time.sleep(0.01)
        return super().wait(timeout_s)


class CommandWorld(SteeredWorld):
    """A world that a sweep's file names, and whose driver may run in a thread."""

    def __init__(self, folder):
        super().__init__(folder)
        self.sweep = Path(folder) / "sweep.yaml"
        self.sweep.write_text(SPEC.format(root=folder))
        self.journal_path = Path(folder) / "store" / "journals" / "toy.sqlite"
        self.inbox = Inbox(self.journal_path)

    def tickets(self, command, *arguments):
        """Return what a command printed; a user's fault is raised."""
        arguments = [command, str(self.sweep), *arguments]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output.strip()

    def make_journal(self):
        with Journal.open(self.journal_path, SWEEP, now=time.time()) as journal:
            journal.rebuild(TrialGraph(TRIALS), self.store, now=1.0)
            journal.end(time.time())

    def go(self, **options):
        """Run the sweep in a thread until somebody stops it."""
        thread = threading.Thread(
            target=lambda: self.run(TRIALS, executor=SlowExecutor, **options), daemon=True
        )
        thread.start()
        deadline_s = time.monotonic() + 60
        while not (self.journal_path.exists() and self._has_started()):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        return thread

    def _has_started(self):
        try:
            return len(self.rows()) == len(TRIALS)
        except UserError:
            return False
