"""From a sweep's verdicts to registered tickets: every winner, with its masks out of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from orchestrator.judging import Judged
from orchestrator.registry import Candidate
from orchestrator.store import Store
from orchestrator.ticket_facts import load_ticket_files, ticket_info
from orchestrator.tracking import MlflowTracker
from orchestrator.winners import winners
from search_spaces.contracts import TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial


def register_winners(
    tracker: MlflowTracker,
    spec: SweepSpec,
    trials: Sequence[Trial],
    results: Mapping[str, TrialResult],
    judged: Sequence[Judged],
    store: Store,
) -> None:
    """Make the sweep's registered tickets its winners; the same call again changes nothing.

    Args:
        tracker: Connected.
        spec: The sweep.
        trials: Its trials.
        results: Committed results by trial key.
        judged: What ``judge_sweep`` made of these.
        store: Where masks and lineages are read from.

    Raises:
        UserError: MLflow failed, or a mask is not what was committed.
    """
    tracker.register(candidates_of(spec, trials, results, judged, store))


def candidates_of(
    spec: SweepSpec,
    trials: Sequence[Trial],
    results: Mapping[str, TrialResult],
    judged: Sequence[Judged],
    store: Store,
) -> list[Candidate]:
    """Return a sweep's winners as tickets to register; arguments as for `register_winners`."""
    candidates = []
    for winner in winners(spec, trials, results, judged):
        info = ticket_info(winner, spec, results)
        load = partial(load_ticket_files, winner, info, results, store)
        candidates.append(Candidate(info, load))
    return candidates
