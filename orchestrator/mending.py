"""What a run mends before it begins: a damaged journal, and checkpoints that nobody needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal
from orchestrator.journal_file import BrokenJournalError
from orchestrator.lease import others_drive
from orchestrator.storage import Storage
from orchestrator.store import CommittedTrial, Store
from orchestrator.sweep_context import SweepContext

T = TypeVar("T")


def mended(context: SweepContext, store: Store, look: Callable[[], T]) -> T:
    """Return what a look finds; where it finds the journal damaged, look again after a rebuild.

    Without this a run would end with the advice to run: it reads the journal before it opens it,
    and one with nothing to do does not open it at all.

    Args:
        context: The sweep.
        store: Has its results.
        look: May read the sweep's journal.

    Raises:
        UserError: The journal cannot be used, or another process runs the sweep.
    """
    try:
        return look()
    except BrokenJournalError:
        now = time.time()
        with Journal.open(context.journal_path, context.info, now) as journal:
            journal.rebuild(TrialGraph(context.trials), store, now)
            journal.end(now)
        return look()


def drop_orphans(store: Store, committed: Mapping[str, CommittedTrial]) -> None:
    """Delete the checkpoints of trials that are done: their drivers died before they could.

    Nothing is deleted while another sweep is driven on the store: it may train one of these trials
    once more, for a mask that this sweep does not want.

    Args:
        store: Has them.
        committed: What it holds of a sweep's trials that need not run, by key.
    """
    left = [key for key, record in committed.items() if record.has_checkpoint]
    if left and not others_drive(Storage(store.uri)):
        for key in left:
            store.drop_checkpoint(key)
