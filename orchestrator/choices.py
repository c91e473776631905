"""The policies that a sweep asks for, and what they leave out in the light of what is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.adaptive import AdaptiveTransfer
from orchestrator.policies import LadderPolicy, Policy, PolicyGroup
from orchestrator.stopping import StopAtFailure
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
