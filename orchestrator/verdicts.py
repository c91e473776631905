"""Does a ticket match its dense network: five named rules over paired seeds.

Scores are oriented so that higher is better and keyed by the seed on which ticket and dense pair
(the evaluation seed where one mask is fine-tuned several times). Nothing is rounded and equality
matches; with `Decimal` scores the four rules on means and deviations are exact.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias, cast

from orchestrator.statistics import holm, mean, noninferiority_pvalue, paired_bound, sample_std

Number: TypeAlias = float | Decimal
Scores: TypeAlias = Mapping[int, Number | None]
Outcome: TypeAlias = Literal["matching", "not_matching", "undecided", "no_verdict"]

RULES = ("noninferior", "subnetwork_std", "full_std", "overlap", "strict")
DEFAULT_RULE = "noninferior"
CONFIDENCE = 0.95
NOISY_RATIO = 3
_MIN_SEEDS = {rule: 3 if rule == "noninferior" else 2 for rule in RULES}


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
        report_size: Number of examples that a score is computed on, where known.
    """

    sparsity: float
    num_removed: int
    ticket: Scores
    dense: Scores
    degenerate: int = 0
    collapsed: tuple[str, ...] = ()
    mixed_numerics: bool = False
    report_size: int | None = None


@dataclass(frozen=True)
class LevelVerdict:
    """Every rule's verdict at one sparsity, with the numbers behind it.

    `n` counts the seeds scored on both sides. A mean or deviation is None where its own side has
    too few seeds or a failed one; the difference (ticket - dense) and its one-sided 95% lower
    bound (n >= 3) are None where the sides do not pair. `noninferior_pvalue` is at most 0.05
    where `noninferior` matches.
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


@dataclass(frozen=True)
class _Claim:
    """What a rule asks for: the left value is at most the right one."""

    left_name: str
    left: Number
    right_name: str
    right: Number

    @property
    def holds(self) -> bool:
        return self.left <= self.right

    def reason(self) -> str:
        left, right = _distinct(self.left, self.right)
        sign = "=" if self.left == self.right else "<" if self.holds else ">"
        return f"{self.left_name} {left} {sign} {self.right_name} {right}"


def judge(
    rule: str, ticket_scores: Sequence[Number], dense_scores: Sequence[Number], delta: Number
) -> bool | None:
    """Say whether a ticket matches under one rule, or None with too few seeds for that rule.

    Args:
        rule: One of `RULES`.
        ticket_scores: Scores of the ticket, higher is better.
        dense_scores: Scores of the dense network, at the same seeds in the same order.
        delta: Largest loss that `noninferior` accepts; the other rules ignore it.

    Raises:
        ValueError: If the rule is unknown or the lists differ in length.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: use one of {', '.join(RULES)}")
    if len(ticket_scores) != len(dense_scores):
        raise ValueError(
            f"{len(ticket_scores)} ticket scores against {len(dense_scores)} dense scores: "
            "pair them on the seed first"
        )
    claim = _claims(_plain(ticket_scores), _plain(dense_scores), delta).get(rule)
    return None if claim is None else claim.holds


def judge_level(scores: LevelScores, delta: Number) -> LevelVerdict:
    """Judge one sparsity under every rule.

    Seed sets that differ get no verdict. A seed that failed (None or not finite) leaves every rule
    undecided: it is never dropped.
    """
    seeds = sorted(scores.ticket.keys() & scores.dense.keys())
    paired = [s for s in seeds if _scored(scores.ticket[s]) and _scored(scores.dense[s])]
    ticket, dense = _complete(scores.ticket), _complete(scores.dense)
    stds = _std(ticket), _std(dense)
    outcomes, reasons = _outcomes(scores, delta)
    losses = None if _obstacle(scores) or not ticket else _losses(ticket, dense)
    can_bound = losses is not None and len(losses) >= _MIN_SEEDS["noninferior"]
    return LevelVerdict(
        sparsity=scores.sparsity,
        num_removed=scores.num_removed,
        n=len(paired),
        ticket_mean=mean(ticket) if ticket else None,
        ticket_std=stds[0],
        dense_mean=mean(dense) if dense else None,
        dense_std=stds[1],
        difference_mean=None if losses is None else -mean(losses),
        difference_lower_bound=-paired_bound(losses, CONFIDENCE) if losses and can_bound else None,
        noninferior_pvalue=(
            noninferiority_pvalue(losses, float(delta)) if losses and can_bound else None
        ),
        outcomes=outcomes,
        reasons=reasons,
        flags=_flags(scores, *stds),
    )


def judge_curve(levels: Sequence[LevelScores], delta: Number) -> CurveVerdict:
    """Judge all evaluated levels of one ladder, in any order.

    A level that was not evaluated is unknown and no obstacle; one that is evaluated but without a
    verdict ends `sparsest_contiguous`.

    Raises:
        ValueError: If two levels have the same sparsity.
    """
    ordered = sorted(levels, key=lambda level: level.sparsity)
    for before, after in zip(ordered, ordered[1:], strict=False):
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
    pairing = LevelScores(0.0, 0, ticket, control)
    if _obstacle(pairing) is not None:
        paired = [s for s in ticket if _scored(ticket[s]) and _scored(control.get(s))]
        return Comparison(len(paired), None, None, None)
    losses = _losses(_complete(ticket), _complete(control))
    bound = -paired_bound(losses, confidence)
    return Comparison(len(losses), -mean(losses), bound, bound > 0)


def _claims(ticket: list[float], dense: list[float], delta: Number) -> dict[str, _Claim]:
    """Return what each rule asks of the paired scores, without the rules that need more seeds."""
    if len(ticket) < 2:
        return {}
    ticket_mean, dense_mean = mean(ticket), mean(dense)
    high = ("ticket mean + std", ticket_mean + sample_std(ticket))
    low = ("dense mean - std", dense_mean - sample_std(dense))
    plain_ticket, plain_dense = ("ticket mean", ticket_mean), ("dense mean", dense_mean)
    claims = {
        "subnetwork_std": _Claim(*plain_dense, *high),
        "full_std": _Claim(*low, *plain_ticket),
        "overlap": _Claim(*low, *high),
        "strict": _Claim(*plain_dense, *plain_ticket),
    }
    if len(ticket) >= _MIN_SEEDS["noninferior"]:
        bound = paired_bound(_losses(ticket, dense), CONFIDENCE)
        claims["noninferior"] = _Claim("upper bound of the loss", bound, "delta", float(delta))
    return claims


def _outcomes(scores: LevelScores, delta: Number) -> tuple[dict[str, Outcome], dict[str, str]]:
    obstacle = _obstacle(scores)
    if obstacle is not None:
        return dict.fromkeys(RULES, obstacle[0]), dict.fromkeys(RULES, obstacle[1])
    claims = _claims(_complete(scores.ticket), _complete(scores.dense), delta)
    outcomes: dict[str, Outcome] = {}
    reasons: dict[str, str] = {}
    for rule in RULES:
        if rule in claims:
            outcomes[rule] = "matching" if claims[rule].holds else "not_matching"
            reasons[rule] = claims[rule].reason()
        else:
            outcomes[rule] = "no_verdict"
            reasons[rule] = f"{rule} needs {_MIN_SEEDS[rule]} seeds, has {len(scores.ticket)}"
    return outcomes, reasons


def _obstacle(scores: LevelScores) -> tuple[Outcome, str] | None:
    """Return the outcome and reason that hold for every rule before any number is compared."""
    if scores.ticket.keys() != scores.dense.keys():
        unpaired = sorted(scores.ticket.keys() ^ scores.dense.keys())
        return "no_verdict", f"ticket and dense do not share the seeds {_listed(unpaired)}"
    failed = sorted(
        seed
        for seed in scores.ticket
        if not (_scored(scores.ticket[seed]) and _scored(scores.dense[seed]))
    )
    if failed:
        return "undecided", f"no score for the seeds {_listed(failed)}: diverged or failed"
    if len(scores.ticket) < 2:
        return "no_verdict", f"a verdict needs 2 seeds, has {len(scores.ticket)}"
    return None


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
    return tuple(flags)


def _rule_curve(
    rule: str,
    verdicts: Sequence[LevelVerdict],
    left_out: Sequence[Sequence[tuple[float, Mapping[str, Outcome]]]],
) -> RuleCurve:
    outcomes = [(verdict.sparsity, verdict.outcomes) for verdict in verdicts]
    decided = [v.n for v in verdicts if v.outcomes[rule] in ("matching", "not_matching")]
    matching = [sparsity for sparsity, outcome in outcomes if outcome[rule] == "matching"]
    spread = None
    if decided and min(decided) > _MIN_SEEDS[rule]:
        reached = [_contiguous(rule, one) or 0.0 for one in left_out]
        spread = min(reached), max(reached)
    return RuleCurve(_contiguous(rule, outcomes), max(matching, default=None), spread)


def _contiguous(rule: str, outcomes: Sequence[tuple[float, Mapping[str, Outcome]]]) -> float | None:
    reached = None
    for sparsity, outcome in outcomes:
        if outcome[rule] != "matching":
            break
        reached = sparsity
    return reached


def _leave_one_out(
    levels: Sequence[LevelScores], delta: Number
) -> list[list[tuple[float, Mapping[str, Outcome]]]]:
    """Return the outcomes of all levels once for each seed left out.

    Levels with an obstacle keep it: leaving out a seed that failed must not decide its level.
    """
    obstacles = [_obstacle(level) is not None for level in levels]
    free = [level for level, stuck in zip(levels, obstacles, strict=True) if not stuck]
    seeds = sorted({seed for level in free for seed in level.ticket})
    return [
        [
            (level.sparsity, _outcomes(level if stuck else _without(level, seed), delta)[0])
            for level, stuck in zip(levels, obstacles, strict=True)
        ]
        for seed in seeds
    ]


def _without(level: LevelScores, seed: int) -> LevelScores:
    ticket = {key: score for key, score in level.ticket.items() if key != seed}
    dense = {key: score for key, score in level.dense.items() if key != seed}
    return LevelScores(level.sparsity, level.num_removed, ticket, dense)


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


def _scored(score: Number | None) -> bool:
    return score is not None and math.isfinite(score)


def _complete(scores: Scores) -> list[float]:
    """Return the scores in the order of their seeds, or nothing where one of them is missing."""
    if not all(_scored(score) for score in scores.values()):
        return []
    return _plain([cast(Number, scores[seed]) for seed in sorted(scores)])


def _plain(scores: Sequence[Number]) -> list[float]:
    # Only +, - and comparisons follow, which Decimal shares with float; types cannot say so.
    return cast(list[float], list(scores))


def _losses(ticket: Sequence[float], dense: Sequence[float]) -> list[float]:
    return [full - sparse for full, sparse in zip(dense, ticket, strict=True)]


def _std(scores: list[float]) -> float | None:
    return sample_std(scores) if len(scores) >= 2 else None


def _distinct(left: Number, right: Number) -> tuple[str, str]:
    """Print two numbers with as few digits as show that they differ."""
    for digits in (4, 8, 12):
        texts = f"{left:.{digits}g}", f"{right:.{digits}g}"
        if left == right or texts[0] != texts[1]:
            return texts
    return str(left), str(right)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)
