"""The policies that a sweep asks for, and what a run would do in the light of what is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.adaptive import AdaptiveTransfer
from orchestrator.gang_sizes import room_of, shapes_for
from orchestrator.plan import Plan, make_plan
from orchestrator.policies import LadderPolicy, Policy, PolicyGroup
from orchestrator.shapes import Shapes
from orchestrator.steering import held_back
from orchestrator.stopping import StopAtFailure
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from orchestrator.transfer_judging import lost_trials
from search_spaces.contracts import TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial

Read = Callable[[str], TrialResult | None]


def policy_of(spec: SweepSpec, trials: Sequence[Trial], read: Read) -> Policy:
    """Return what decides on a sweep's trials while it runs.

    Args:
        spec: The sweep.
        trials: Its trials.
        read: Returns a committed result by trial key.
    """
    stop = StopAtFailure(spec, trials, read) if spec.policy == "stop-at-failure" else LadderPolicy()
    return PolicyGroup([stop, AdaptiveTransfer(spec, trials, read)])


def left_out(spec: SweepSpec, trials: Sequence[Trial], read: Read) -> dict[str, str]:
    """Return the trials that the policies leave out by now, and why, by key.

    What waits for such a trial is left out with it; trials are given parents first.
    """
    found = {**StopAtFailure(spec, trials, read).stopped(), **lost_trials(spec, trials, read)}
    for trial in trials if found else ():
        for key in trial.waits_for:
            if key in found:
                found.setdefault(trial.key, found[key])
    return found


def planned(context: SweepContext, store: Store, shapes: Shapes | None = None) -> Plan:
    """Return what a run would do, without what policies leave out and what people have cancelled.

    Args:
        context: The sweep.
        store: Where results are reused from.
        shapes: What the trials would run on; None = as on the smallest cluster they are for.

    Raises:
        UserError: Store or journal cannot be read.
    """
    skipped = left_out(context.spec, context.trials, store.read)
    skipped |= held_back(context.journal_path, context.trials)
    if shapes is None:
        shapes = shapes_for(context.spec, context.trials, room_of(context.spec))
    return make_plan(context.trials, store, shapes, skipped)
