"""From a sweep's trials and results to judged curves, by model, task, method and split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.verdicts import (
    Comparison,
    CurveVerdict,
    LevelScores,
    Scores,
    beats,
    judge_curve,
)
from search_spaces.contracts import TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.task_specs import TaskSpec
from search_spaces.trial import Role, Trial

SELECT = "select"
REPORT = "report"
_Side = dict[int, Trial]  # by replicate: ticket and dense pair on it


@dataclass(frozen=True)
class Judged:
    """A method's curve on one split.

    Attributes:
        model: The model's name in the sweep.
        task: The task's name in the sweep.
        method: The ticket's method.
        split: ``select`` (which chooses) or ``report`` (which is told).
        levels: The evaluated levels, sparsest last.
        trial_keys: For each level the final trial of every seed.
        curve: All rules' verdicts, level by level.
        controls: For each control the ticket against it, level by level.
        same_split: Whether choosing and reporting used the same examples (method rule 14).
    """

    model: str
    task: str
    method: str
    split: str
    levels: tuple[LevelScores, ...]
    trial_keys: tuple[Mapping[int, str], ...]
    curve: CurveVerdict
    controls: Mapping[str, tuple[Comparison, ...]]
    same_split: bool = False


def judge_sweep(
    spec: SweepSpec,
    trials: Sequence[Trial],
    results: Mapping[str, TrialResult],
    failed: Collection[str] = (),
) -> list[Judged]:
    """Judge every curve of a sweep on its select and its report split.

    A final trial without a result has the score None, so its level is undecided. Levels beyond
    the sparsest of which a final trial has ended were not evaluated and are left out; one below
    it is never jumped over, also where nobody remembers why it has no result.

    Args:
        spec: The sweep.
        trials: Its trials, with those that a policy added.
        results: Committed results by trial key.
        failed: Keys of trials that failed for good.
    """
    table = _Table(spec.seeds, trials, results, failed)
    return [
        judged
        for model in spec.models
        for task in spec.tasks
        for method in spec.methods
        for split in (SELECT, REPORT)
        if (judged := _judge(spec, table, model.name, task, method, split)) is not None
    ]


def _judge(
    spec: SweepSpec, table: _Table, model: str, task: TaskSpec, method: str, split: str
) -> Judged | None:
    """Judge one curve; None where no level was evaluated."""
    same = spec.same_split(task)
    scored = spec.report_split_of(task) if split == REPORT or same else SELECT
    dense = table.side("dense", model, task.name, "")
    sides = table.levels("final", model, task.name, method)
    while sides and not table.is_evaluated(sides[-1]):
        sides.pop()
    if not sides:
        return None
    levels = [table.scores(side, dense.get(0.0, {}), scored) for side in sides]
    controls: dict[str, tuple[Comparison, ...]] = {
        name: tuple(
            beats(level.ticket, table.control(name, model, task.name, level.sparsity, scored))
            for level in levels
        )
        for name in spec.controls
    }
    keys = tuple({seed: trial.key for seed, trial in side.items()} for side in sides)
    curve = judge_curve(levels, spec.delta_of(task))
    return Judged(model, task.name, method, split, tuple(levels), keys, curve, controls, same)


class _Table:
    """Trials by role, with their results."""

    def __init__(
        self,
        seeds: Sequence[int],
        trials: Sequence[Trial],
        results: Mapping[str, TrialResult],
        failed: Collection[str],
    ) -> None:
        self._seeds, self._results, self._failed = seeds, results, failed
        self._sides: dict[tuple[str, str, str, str], dict[float, _Side]] = defaultdict(dict)
        for trial in trials:
            for role in trial.roles:
                if role.kind != "round":
                    self._add(role, trial)

    def _add(self, role: Role, trial: Trial) -> None:
        levels = self._sides[role.kind, role.model, role.task, role.method]
        levels.setdefault(role.sparsity, {})[role.seed] = trial

    def side(self, kind: str, model: str, task: str, method: str) -> dict[float, _Side]:
        """Return the trials of one kind by sparsity and seed."""
        return self._sides.get((kind, model, task, method), {})

    def levels(self, kind: str, model: str, task: str, method: str) -> list[_Side]:
        """Return the same as a list, sparsest last."""
        return [side for _, side in sorted(self.side(kind, model, task, method).items())]

    def is_evaluated(self, side: _Side) -> bool:
        """Whether any trial of a level has ended."""
        return any(t.key in self._results or t.key in self._failed for t in side.values())

    def control(self, name: str, model: str, task: str, sparsity: float, split: str) -> Scores:
        """Return a control's scores at one sparsity."""
        return self._scores(self.side("control", model, task, name).get(sparsity, {}), split)

    def scores(self, ticket: _Side, dense: _Side, split: str) -> LevelScores:
        """Return all that a verdict needs to know of one level."""
        spec = next(iter(ticket.values())).spec
        finals, paired = self._present(ticket), [*self._present(ticket), *self._present(dense)]
        scored = [result.scores[split] for result in finals if split in result.scores]
        numerics = {result.numerics.model_dump_json() for result in paired}
        masks = [result.input_mask for result in finals if result.input_mask is not None]
        return LevelScores(
            sparsity=spec.num_removed / spec.model.num_prunable,
            num_removed=spec.num_removed,
            ticket=self._scores(ticket, split),
            dense=self._scores(dense, split),
            degenerate=sum(score.constant_predictor for score in scored),
            collapsed=tuple(sorted({name for mask in masks for name in mask.collapsed})),
            mixed_numerics=len(numerics) > 1,
            not_theta0=any(trial.spec.start is not None for trial in ticket.values()),
            report_size=scored[0].num_examples if scored else None,
        )

    def _present(self, side: _Side) -> list[TrialResult]:
        return [self._results[t.key] for t in side.values() if t.key in self._results]

    def _scores(self, side: _Side, split: str) -> dict[int, float | None]:
        """Return the score of every seed of the sweep: none is dropped, not even by a cancel.

        Every metric that tasks can name is higher-is-better, so none changes its sign.
        """
        results = {seed: self._results.get(trial.key) for seed, trial in side.items()}
        return {
            seed: result.primary(split)
            if (result := results.get(seed)) and split in result.scores
            else None
            for seed in self._seeds
        }
