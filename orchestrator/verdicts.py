"""Does a ticket match its dense network: five named rules over paired seeds.

Scores are oriented so that higher is better and keyed by the seed on which ticket and dense pair
(the evaluation seed where one mask is fine-tuned several times). Nothing is rounded and equality
matches; with `Decimal` scores the four rules on means and deviations are exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from orchestrator.rules import (
    CONFIDENCE,
    DEFAULT_RULE,
    MIN_SEEDS,
    RULES,
    Number,
    Outcome,
    Scores,
    complete,
    judge,
    losses,
    num_paired,
    obstacle,
    outcomes,
)
from orchestrator.statistics import (
    holm,
    mean,
    noninferiority_pvalue,
    paired_bound,
    sample_std,
    t_interval,
)

__all__ = [
    "DEFAULT_RULE",
    "RULES",
    "Comparison",
    "CurveVerdict",
    "LevelScores",
    "LevelVerdict",
    "Number",
    "Outcome",
    "RuleCurve",
    "Scores",
    "beats",
    "judge",
    "judge_curve",
    "judge_level",
]

NOISY_RATIO = 3
# Sparsity and outcome by rule.
_Judged: TypeAlias = tuple[float, Mapping[str, Outcome]]


@dataclass(frozen=True)
class LevelScores:
    """What was measured at one sparsity.

    Attributes:
        sparsity: Fraction of the prunable weights removed, in [0, 1).
        num_removed: Number of prunable weights removed.
        ticket: Score by seed; None where the seed failed for good.
        dense: Score by seed of the same final recipe without a mask.
        degenerate: Number of ticket trials that ended as a constant predictor.
        collapsed: Names of matrices left with under 1% of their weights.
        mixed_numerics: Whether the scores come from more than one numerics class.
        not_theta0: Whether a ticket starts elsewhere than at theta_0 (method rule 6).
        report_size: Number of examples that a score is computed on, where known.
    """

    sparsity: float
    num_removed: int
    ticket: Scores
    dense: Scores
    degenerate: int = 0
    collapsed: tuple[str, ...] = ()
    mixed_numerics: bool = False
    not_theta0: bool = False
    report_size: int | None = None


@dataclass(frozen=True)
class LevelVerdict:
    """Every rule's verdict at one sparsity, with the numbers behind it.

    `n` counts the seeds scored on both sides. A mean or deviation is None where its own side has
    too few seeds or a failed one; the difference (ticket - dense), its one-sided 95% lower bound
    and its two-sided 95% t interval (both n >= 3) are None where the sides do not pair.
    `noninferior_pvalue` is at most 0.05 where `noninferior` matches.
    """

    sparsity: float
    num_removed: int
    n: int
    ticket_mean: Number | None
    ticket_std: Number | None
    dense_mean: Number | None
    dense_std: Number | None
    difference_mean: Number | None
    difference_lower_bound: float | None
    difference_interval: tuple[float, float] | None
    noninferior_pvalue: float | None
    outcomes: Mapping[str, Outcome]
    reasons: Mapping[str, str]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class RuleCurve:
    """How far one rule goes along a curve; None where no level matches.

    `sparsest_contiguous` has only matching levels up to it, `sparsest_any` may jump over failing
    ones. `leave_one_out` is the range of `sparsest_contiguous` over leaving one seed out (0.0
    where nothing matches), None where the rule cannot spare a seed.
    """

    sparsest_contiguous: float | None
    sparsest_any: float | None
    leave_one_out: tuple[float, float] | None


@dataclass(frozen=True)
class CurveVerdict:
    """The verdicts of all evaluated levels, sparsest last, and how far each rule goes.

    `sparsest_any_holm` is the sparsest level that is `noninferior` after Holm's correction over
    the levels; the other rules are no tests, so nothing corrects their `sparsest_any`.
    """

    levels: tuple[LevelVerdict, ...]
    rules: Mapping[str, RuleCurve]
    sparsest_any_holm: float | None


@dataclass(frozen=True)
class Comparison:
    """A ticket against a control; `beats` is None where the seeds do not allow a verdict."""

    n: int
    difference_mean: Number | None
    lower_bound: float | None
    beats: bool | None


def judge_level(scores: LevelScores, delta: Number) -> LevelVerdict:
    """Judge one sparsity under every rule.

    Seed sets that differ get no verdict. A seed that failed (None or not finite) leaves every rule
    undecided: it is never dropped.
    """
    ticket, dense = complete(scores.ticket), complete(scores.dense)
    ticket_std, dense_std = _std(ticket), _std(dense)
    judged, reasons = outcomes(scores.ticket, scores.dense, delta)
    pairs = obstacle(scores.ticket, scores.dense) is None
    bounded = losses(ticket, dense) if pairs and len(ticket) >= MIN_SEEDS["noninferior"] else None
    return LevelVerdict(
        sparsity=scores.sparsity,
        num_removed=scores.num_removed,
        n=num_paired(scores.ticket, scores.dense),
        ticket_mean=mean(ticket) if ticket else None,
        ticket_std=ticket_std,
        dense_mean=mean(dense) if dense else None,
        dense_std=dense_std,
        difference_mean=mean(losses(dense, ticket)) if pairs else None,
        difference_lower_bound=-paired_bound(bounded, CONFIDENCE) if bounded else None,
        difference_interval=t_interval(losses(dense, ticket)) if bounded else None,
        noninferior_pvalue=noninferiority_pvalue(bounded, float(delta)) if bounded else None,
        outcomes=judged,
        reasons=reasons,
        flags=_flags(scores, ticket_std, dense_std),
    )


def judge_curve(levels: Sequence[LevelScores], delta: Number) -> CurveVerdict:
    """Judge all evaluated levels of one ladder, in any order.

    A level that was not evaluated is unknown and no obstacle; one that is evaluated but without a
    verdict ends `sparsest_contiguous`.

    Raises:
        ValueError: If two levels have the same sparsity.
    """
    ordered = sorted(levels, key=lambda level: level.sparsity)
    for before, after in pairwise(ordered):
        if before.sparsity == after.sparsity:
            raise ValueError(
                f"sparsity {after.sparsity} is given twice: give each level of a curve once"
            )
    verdicts = tuple(judge_level(level, delta) for level in ordered)
    left_out = _leave_one_out(ordered, delta)
    rules = {rule: _rule_curve(rule, verdicts, left_out) for rule in RULES}
    return CurveVerdict(verdicts, rules, _sparsest_holm(verdicts))


def beats(ticket: Scores, control: Scores, confidence: float = CONFIDENCE) -> Comparison:
    """Say whether a ticket beats a control: the one-sided paired-t lower bound is above 0.

    Seeds that differ, fail or are fewer than two allow no verdict.
    """
    num = num_paired(ticket, control)
    if obstacle(ticket, control) is not None:
        return Comparison(num, None, None, None)
    ours, theirs = complete(ticket), complete(control)
    bound = -paired_bound(losses(ours, theirs), confidence)
    return Comparison(num, mean(losses(theirs, ours)), bound, bound > 0)


def _flags(
    scores: LevelScores, ticket_std: Number | None, dense_std: Number | None
) -> tuple[str, ...]:
    flags = []
    if ticket_std is not None and dense_std is not None:
        if ticket_std == 0 or ticket_std > NOISY_RATIO * dense_std:
            flags.append("noisy")
        # One example more or less moves the score by as much as another seed does.
        if scores.report_size is not None and scores.report_size * dense_std <= 1:
            flags.append("dev_noise")
    if scores.degenerate:
        flags.append("degenerate")
    if scores.collapsed:
        flags.append("collapsed")
    if scores.mixed_numerics:
        flags.append("mixed_numerics")
    if scores.not_theta0:
        flags.append("not_theta0")
    return tuple(flags)


def _rule_curve(
    rule: str, verdicts: Sequence[LevelVerdict], left_out: Sequence[Sequence[_Judged]]
) -> RuleCurve:
    full = [(verdict.sparsity, verdict.outcomes) for verdict in verdicts]
    decided = [v.n for v in verdicts if v.outcomes[rule] in ("matching", "not_matching")]
    matching = [sparsity for sparsity, outcome in full if outcome[rule] == "matching"]
    spread = None
    if decided and min(decided) > MIN_SEEDS[rule]:
        reached = [_contiguous(rule, one) or 0.0 for one in left_out]
        spread = min(reached), max(reached)
    return RuleCurve(_contiguous(rule, full), max(matching, default=None), spread)


def _contiguous(rule: str, levels: Sequence[_Judged]) -> float | None:
    reached = None
    for sparsity, outcome in levels:
        if outcome[rule] != "matching":
            break
        reached = sparsity
    return reached


def _leave_one_out(levels: Sequence[LevelScores], delta: Number) -> list[list[_Judged]]:
    """Return the outcomes of all levels once for each seed left out.

    Levels with an obstacle keep it: leaving out a seed that failed must not decide its level.
    """
    stuck = [obstacle(level.ticket, level.dense) is not None for level in levels]
    free = [level for level, is_stuck in zip(levels, stuck, strict=True) if not is_stuck]

    def without(level: LevelScores, is_stuck: bool, seed: int) -> Mapping[str, Outcome]:
        sides = [
            scores if is_stuck else {key: scores[key] for key in scores if key != seed}
            for scores in (level.ticket, level.dense)
        ]
        return outcomes(sides[0], sides[1], delta)[0]

    return [
        [
            (level.sparsity, without(level, is_stuck, seed))
            for level, is_stuck in zip(levels, stuck, strict=True)
        ]
        for seed in sorted({seed for level in free for seed in level.ticket})
    ]


def _sparsest_holm(verdicts: Sequence[LevelVerdict]) -> float | None:
    tested = [
        (verdict.sparsity, verdict.noninferior_pvalue)
        for verdict in verdicts
        if verdict.noninferior_pvalue is not None
    ]
    adjusted = holm([pvalue for _, pvalue in tested])
    passed = [
        sparsity
        for (sparsity, _), pvalue in zip(tested, adjusted, strict=True)
        if pvalue <= 1 - CONFIDENCE
    ]
    return max(passed, default=None)


def _std(scores: list[float]) -> float | None:
    return sample_std(scores) if len(scores) >= 2 else None
