"""Verdict rows as plain data: what the report and the terminal show of every judged level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.judging import REPORT, SELECT, Judged
from orchestrator.rules import Number, Outcome
from orchestrator.verdicts import Comparison, LevelVerdict


@dataclass(frozen=True)
class ControlRow:
    """A ticket against one control at one level, on the select split.

    Attributes:
        name: The control.
        mean: The control's mean score; None where ticket and control do not pair on the seeds.
        difference: Mean of ticket - control over the seeds.
        lower_bound: One-sided 95% lower bound of the difference.
        beats: Whether that bound is above 0; None where the seeds allow no verdict.
    """

    name: str
    mean: float | None
    difference: Number | None
    lower_bound: float | None
    beats: bool | None


@dataclass(frozen=True)
class VerdictRow:
    """One level of one curve: chosen on select, told on report.

    Numbers are None where a side has no complete scores.

    Attributes:
        model: The model's name in the sweep.
        task: The task's name in the sweep.
        method: The ticket's method.
        sparsity: Fraction of the prunable weights removed.
        num_removed: Number of prunable weights removed.
        num_seeds: Seeds scored on both sides.
        ticket_mean: On select.
        ticket_std: On select, ddof 1.
        dense_mean: On select.
        dense_std: On select, ddof 1.
        difference: Mean of ticket - dense on select.
        difference_lower_bound: Its one-sided 95% lower bound.
        difference_interval: Its two-sided 95% t interval.
        outcomes: Of all rules on select.
        reason: Why the default rule says what it says on select.
        report_mean: The ticket's on report.
        report_dense_mean: The dense network's on report.
        report_difference: Mean of ticket - dense on report.
        report_interval: Its two-sided 95% t interval.
        report_outcome: Of the default rule on report.
        controls: The ticket against each control, on select.
        flags: Warnings of either split's numbers, select's first.
        is_best: Whether this is the best ticket: the sparsest level up to which every level
            matches under the default rule on select.
        same_split: Whether select and report are the same examples.
    """

    model: str
    task: str
    method: str
    sparsity: float
    num_removed: int
    num_seeds: int
    ticket_mean: Number | None
    ticket_std: Number | None
    dense_mean: Number | None
    dense_std: Number | None
    difference: Number | None
    difference_lower_bound: float | None
    difference_interval: tuple[float, float] | None
    outcomes: Mapping[str, Outcome]
    reason: str
    report_mean: Number | None
    report_dense_mean: Number | None
    report_difference: Number | None
    report_interval: tuple[float, float] | None
    report_outcome: Outcome
    controls: tuple[ControlRow, ...]
    flags: tuple[str, ...]
    is_best: bool
    same_split: bool


def verdict_rows(judged: Sequence[Judged], default_rule: str) -> list[VerdictRow]:
    """Return a row for each model, task, method and level, the sparsest level of each last.

    Args:
        judged: What `judge_sweep` returned: every curve on both splits.
        default_rule: The sweep's rule, which names the best ticket.
    """
    reported = {(one.model, one.task, one.method): one for one in judged if one.split == REPORT}
    return [
        row
        for one in judged
        if one.split == SELECT
        for row in _rows(one, reported[one.model, one.task, one.method], default_rule)
    ]


def _rows(select: Judged, report: Judged, rule: str) -> Iterator[VerdictRow]:
    best = select.curve.rules[rule].sparsest_contiguous
    for index, level in enumerate(select.curve.levels):
        told = report.curve.levels[index]
        yield VerdictRow(
            model=select.model,
            task=select.task,
            method=select.method,
            sparsity=level.sparsity,
            num_removed=level.num_removed,
            num_seeds=level.n,
            ticket_mean=level.ticket_mean,
            ticket_std=level.ticket_std,
            dense_mean=level.dense_mean,
            dense_std=level.dense_std,
            difference=level.difference_mean,
            difference_lower_bound=level.difference_lower_bound,
            difference_interval=level.difference_interval,
            outcomes=level.outcomes,
            reason=level.reasons[rule],
            report_mean=told.ticket_mean,
            report_dense_mean=told.dense_mean,
            report_difference=told.difference_mean,
            report_interval=told.difference_interval,
            report_outcome=told.outcomes[rule],
            controls=tuple(
                _control(name, level, compared[index]) for name, compared in select.controls.items()
            ),
            flags=tuple(dict.fromkeys([*level.flags, *told.flags])),
            is_best=best is not None and level.sparsity == best,
            same_split=select.same_split,
        )


def _control(name: str, level: LevelVerdict, compared: Comparison) -> ControlRow:
    mean = None
    if level.ticket_mean is not None and compared.difference_mean is not None:
        # A comparison keeps the paired difference alone.
        mean = float(level.ticket_mean) - float(compared.difference_mean)
    return ControlRow(name, mean, compared.difference_mean, compared.lower_bound, compared.beats)
