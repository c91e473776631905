"""The winners of a sweep: every level of its curves that matches under the sweep's rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.judging import REPORT, SELECT, Judged
from orchestrator.verdicts import LevelVerdict
from search_spaces.contracts import TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.ticket_info import ticket_key
from search_spaces.trial import Trial

Side = dict[int, Trial]  # by replicate


@dataclass(frozen=True)
class Winner:
    """A matching level of one curve.

    Attributes:
        key: Names the ticket by its final trials and masks.
        select: The curve on select.
        report: The same on report.
        level: Index of the level in both.
        sides: Trials by seed: of 'ticket', of 'dense' and of each control.
        makers: For each search seed the finals that trained under its mask, lowest seed first.
    """

    key: str
    select: Judged
    report: Judged
    level: int
    sides: Mapping[str, Side]
    makers: Mapping[int, Sequence[Trial]]

    @property
    def verdict(self) -> LevelVerdict:
        """The level's verdict on select."""
        return self.select.curve.levels[self.level]


def winners(
    spec: SweepSpec,
    trials: Sequence[Trial],
    results: Mapping[str, TrialResult],
    judged: Sequence[Judged],
) -> list[Winner]:
    """Return every level that matches on select under the sweep's rule, sparsest of a curve last.

    A level beyond one that fails is among them (``sparsest_any``), marked as not contiguous. A
    level whose results do not tell their masks is not, and no ticket that starts elsewhere than at
    theta_0: it is more than theta_0 under a mask.

    Args:
        spec: The sweep.
        trials: Its trials.
        results: Committed results by trial key.
        judged: What ``judge_sweep`` made of these.
    """
    reported = {(one.model, one.task, one.method): one for one in judged if one.split == REPORT}
    found: list[Winner] = []
    for one in judged:
        report = reported[one.model, one.task, one.method]
        for index, level in enumerate(one.curve.levels if one.split == SELECT else ()):
            if level.outcomes[spec.verdict.rule] == "matching" and "not_theta0" not in level.flags:
                sides = _sides(one, index, trials)
                made = _winner(one, report, index, sides, results)
                found += [made] if made else []
    return found


def _sides(judged: Judged, index: int, trials: Sequence[Trial]) -> dict[str, Side]:
    """Return the trials that a level's verdict is about, by side and seed."""
    wanted = {("dense", ""): "dense", ("final", judged.method): "ticket"}
    wanted |= {("control", name): name for name in judged.controls}
    sides: dict[str, Side] = {"ticket": {}, "dense": {}, **{name: {} for name in judged.controls}}
    sparsity = judged.levels[index].sparsity
    for trial in trials:
        for role in trial.roles:
            side = wanted.get((role.kind, role.method))
            is_here = (role.model, role.task) == (judged.model, judged.task)
            if side and is_here and role.sparsity == (0.0 if side == "dense" else sparsity):
                sides[side][role.seed] = trial
    return {side: dict(sorted(own.items())) for side, own in sides.items()}


def _winner(
    select: Judged,
    report: Judged,
    index: int,
    sides: dict[str, Side],
    results: Mapping[str, TrialResult],
) -> Winner | None:
    makers: dict[int, list[Trial]] = defaultdict(list)
    for seed, trial in sides["ticket"].items():
        makers[_search_seed(trial, select, seed)].append(trial)
    finals = sides["ticket"].values()
    masks = [results[t.key].input_mask for t in finals if t.key in results]
    known = [mask.sha256 for mask in masks if mask]
    if len(known) < len(finals):
        return None
    key = ticket_key({seed: trial.key for seed, trial in sides["ticket"].items()}, known)
    return Winner(key, select, report, index, sides, dict(sorted(makers.items())))


def _search_seed(trial: Trial, judged: Judged, seed: int) -> int:
    """Return the seed of the lineage whose mask a final trained under."""
    wanted = (judged.model, judged.task, judged.method, seed)
    return next(
        role.search_seed
        for role in trial.roles
        if role.kind == "final" and (role.model, role.task, role.method, role.seed) == wanted
    )
