"""The policy stop-at-failure: no level beyond two that failed in a row (method rule 17).

One failing level alone is a false alarm 47% of the time for a ticket as good as dense over five
levels, two in a row 15%.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.graph import TrialGraph
from orchestrator.judging import SELECT
from orchestrator.policies import Event, SchedulerView, Skip
from orchestrator.rules import outcomes
from orchestrator.transfer_judging import scored_split
from search_spaces.contracts import TrialResult, TrialState
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Role, Trial

NUM_FAILURES = 2
Read = Callable[[str], TrialResult | None]
_Curve = tuple[str, str, str]  # model, task, method


@dataclass
class _Levels:
    """A curve's trials: dense and finals by seed, and what each level beyond would take."""

    dense: dict[int, str] = field(default_factory=dict)
    finals: dict[int, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))


class StopAtFailure:
    """Leaves out a curve's levels beyond two consecutive ones that failed on all seeds.

    Args:
        spec: The sweep; nothing is stopped unless its policy is stop-at-failure.
        trials: Its trials.
        read: Returns a committed result by trial key.
    """

    def __init__(self, spec: SweepSpec, trials: Sequence[Trial], read: Read) -> None:
        self._spec, self._trials, self._read = spec, trials, read
        self._curves = _curves(spec, trials) if spec.policy == "stop-at-failure" else {}
        self._deciding: dict[str, set[_Curve]] = defaultdict(set)
        for curve, levels in self._curves.items():
            for keys in (levels.dense, *levels.finals.values()):
                for key in keys.values():
                    self._deciding[key].add(curve)

    def heeds(self, key: str) -> bool:
        """Return whether a trial is a dense or a final one of a curve."""
        return key in self._deciding

    def on_result(
        self, graph: TrialGraph, scheduler: SchedulerView, trial: Trial, result: TrialResult
    ) -> list[Event]:
        """Return the skips that follow from a trial's result."""
        skipped: dict[str, str] = {}
        for curve in sorted(self._deciding.get(trial.key, ())):
            skipped |= self._beyond(curve)
        return [
            Skip(key, reason)
            for key, reason in skipped.items()
            if scheduler.state(key) is TrialState.PENDING
        ]

    def stopped(self) -> dict[str, str]:
        """Return all trials that are left out, and why, by key."""
        found: dict[str, str] = {}
        for curve in self._curves:
            found |= self._beyond(curve)
        return found

    def _beyond(self, curve: _Curve) -> dict[str, str]:
        """Return the trials of a curve that only levels beyond its failures want."""
        last = self._last_failure(curve)
        if last is None:
            return {}
        reason = f"{' '.join(curve[1:])}: {NUM_FAILURES} levels in a row failed"
        return {
            trial.key: reason
            for trial in self._trials
            if all(_is_beyond(role, curve, last) for role in trial.roles)
        }

    def _last_failure(self, curve: _Curve) -> int | None:
        """Return the place of the second of two consecutive failing levels."""
        levels, num_failed = self._curves[curve], 0
        dense = self._scores(curve[1], levels.dense)
        for level, keys in sorted(levels.finals.items()):
            ticket = self._scores(curve[1], keys)
            task = next(one for one in self._spec.tasks if one.name == curve[1])
            judged, _ = outcomes(ticket, dense, self._spec.delta_of(task))
            failed = judged[self._spec.verdict.rule] == "not_matching"
            num_failed = num_failed + 1 if failed else 0
            if num_failed == NUM_FAILURES:
                return level
        return None

    def _scores(self, task: str, keys: Mapping[int, str]) -> dict[int, float | None]:
        split = scored_split(self._spec, task, SELECT)
        found = {seed: self._read(keys.get(seed, "")) for seed in self._spec.seeds}
        return {seed: result.primary(split) if result else None for seed, result in found.items()}


def _curves(spec: SweepSpec, trials: Iterable[Trial]) -> dict[_Curve, _Levels]:
    curves: dict[_Curve, _Levels] = defaultdict(_Levels)
    for trial in trials:
        for role in trial.roles:
            if role.kind == "dense":
                for method in spec.methods:
                    curves[role.model, role.task, method].dense[role.seed] = trial.key
            elif role.kind == "final" and role.level_index is not None:
                finals = curves[role.model, role.task, role.method].finals
                finals[role.level_index][role.seed] = trial.key
    return dict(curves)


def _is_beyond(role: Role, curve: _Curve, last: int) -> bool:
    """Whether a role belongs to a level beyond the last failure, a round of it to its mask."""
    level = -1 if role.level_index is None else role.level_index
    if (role.model, role.task) != curve[:2] or role.kind == "transfer":
        return False
    if role.kind == "control":
        return curve[2] == "imp" and level > last
    if role.method != curve[2]:
        return False
    return level >= last if role.kind == "round" else level > last
