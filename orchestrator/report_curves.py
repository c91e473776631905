"""Scores against sparsity as plain data, ready to be drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.judging import REPORT, SELECT, Judged
from orchestrator.rules import Scores, complete
from orchestrator.statistics import mean, sample_std
from search_spaces.contracts import TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.task_specs import TaskSpec
from search_spaces.trial import Trial


@dataclass(frozen=True)
class Point:
    """The scores of all seeds at one sparsity."""

    sparsity: float
    scores: Scores

    @property
    def present(self) -> tuple[float, ...]:
        """The scores that there are, whether or not seeds are missing."""
        return tuple(float(score) for score in self.scores.values() if score is not None)

    @property
    def mean(self) -> float | None:
        """None where a seed has no score."""
        scores = complete(self.scores)
        return float(mean(scores)) if scores else None

    @property
    def std(self) -> float | None:
        """Sample deviation (ddof 1); None where a seed has no score or there is but one."""
        scores = complete(self.scores)
        return float(sample_std(scores)) if len(scores) > 1 else None

    @property
    def heights(self) -> tuple[float, ...]:
        """The scores that there are, and the ends of the whisker if there is one."""
        if self.mean is None or self.std is None:
            return self.present
        return (*self.present, self.mean - self.std, self.mean + self.std)


@dataclass(frozen=True)
class Series:
    """One method or control; `best` is the sparsity of its best ticket, if it has one."""

    name: str
    points: tuple[Point, ...]
    best: float | None = None


@dataclass(frozen=True)
class Curve:
    """All series of one model, task and split.

    Attributes:
        model: The model's name in the sweep.
        task: The task's name in the sweep.
        split: ``select`` or ``report``.
        same_split: Whether the two are the same examples.
        metric: The primary metric's name.
        tickets: A series for each method.
        controls: A series for each control.
        dense: The dense network's scores, at sparsity 0.
        delta: Margin of ``noninferior``.
    """

    model: str
    task: str
    split: str
    same_split: bool
    metric: str
    tickets: tuple[Series, ...]
    controls: tuple[Series, ...]
    dense: Point
    delta: float

    @property
    def points(self) -> tuple[Point, ...]:
        """The points of all series."""
        return tuple(point for one in (*self.tickets, *self.controls) for point in one.points)

    @property
    def levels(self) -> tuple[float, ...]:
        """The sparsities that were evaluated, sparsest last."""
        return tuple(sorted({point.sparsity for point in self.points}))

    @property
    def heights(self) -> tuple[float, ...]:
        """All values that are drawn: seeds, ends of whiskers, the dense line and its margin."""
        dense = self.dense.mean
        lines = () if dense is None else (dense, dense - self.delta)
        return tuple(v for point in (*self.points, self.dense) for v in point.heights) + lines


def make_curves(
    spec: SweepSpec,
    judged: Sequence[Judged],
    trials: Sequence[Trial],
    results: Mapping[str, TrialResult],
) -> list[Curve]:
    """Return the curves of every model and task, select before report.

    Where both are the same examples there is one curve, of ``report``.

    Args:
        spec: The sweep.
        judged: What `judge_sweep` returned.
        trials: The sweep's trials.
        results: Committed results by trial key.
    """
    groups: dict[tuple[str, str, str], list[Judged]] = defaultdict(list)
    for one in judged:
        groups[one.model, one.task, one.split].append(one)
    tasks = {task.name: task for task in spec.tasks}
    return [
        _curve(spec, tasks[task], group, groups[model, task, SELECT], trials, results)
        for (model, task, split), group in groups.items()
        if split == REPORT or not group[0].same_split
    ]


def _curve(
    spec: SweepSpec,
    task: TaskSpec,
    group: Sequence[Judged],
    select: Sequence[Judged],
    trials: Sequence[Trial],
    results: Mapping[str, TrialResult],
) -> Curve:
    first = group[0]
    split = spec.report_split_of(task) if first.split == REPORT else SELECT
    finals = [key for keys in first.trial_keys for key in keys.values()]
    metrics = [results[key].metric for key in finals if key in results]
    return Curve(
        model=first.model,
        task=first.task,
        split=first.split,
        same_split=first.same_split,
        metric=metrics[0] if metrics else "score",
        tickets=tuple(
            _ticket(one, chosen.curve.rules[spec.verdict.rule].sparsest_contiguous)
            for one, chosen in zip(group, select, strict=True)
        ),
        controls=tuple(
            _control(name, first, spec.seeds, split, trials, results) for name in spec.controls
        ),
        dense=Point(0.0, first.levels[0].dense),
        delta=spec.delta_of(task),
    )


def _ticket(judged: Judged, best: float | None) -> Series:
    points = tuple(Point(level.sparsity, level.ticket) for level in judged.levels)
    return Series(judged.method, points, best)


def _control(
    name: str,
    judged: Judged,
    seeds: Sequence[int],
    split: str,
    trials: Sequence[Trial],
    results: Mapping[str, TrialResult],
) -> Series:
    wanted = ("control", judged.model, judged.task, name)
    levels: dict[float, dict[int, float | None]] = {}
    for trial in trials:
        result = results.get(trial.key)
        if result is None or split not in result.scores:
            continue
        for role in trial.roles:
            if (role.kind, role.model, role.task, role.method) == wanted:
                scores = levels.setdefault(role.sparsity, dict.fromkeys(seeds))
                scores[role.seed] = result.primary(split)
    return Series(name, tuple(Point(level, levels[level]) for level in sorted(levels)))
