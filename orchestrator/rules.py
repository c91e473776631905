"""The five rules that say whether a ticket matches its dense network, on paired scores.

Scores are oriented so that higher is better and keyed by seed. A seed without a score (None or not
finite) failed: it leaves every rule undecided and is never dropped. Nothing is rounded and equality
matches; on `Decimal` scores the four rules on means and deviations are exact.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias, cast

from orchestrator.statistics import mean, paired_bound, sample_std

Number: TypeAlias = float | Decimal
Scores: TypeAlias = Mapping[int, Number | None]
Outcome: TypeAlias = Literal["matching", "not_matching", "undecided", "no_verdict"]

RULES = ("noninferior", "subnetwork_std", "full_std", "overlap", "strict")
DEFAULT_RULE = "noninferior"
CONFIDENCE = 0.95
MIN_SEEDS = {rule: 3 if rule == "noninferior" else 2 for rule in RULES}


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


def outcomes(
    ticket: Scores, dense: Scores, delta: Number
) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Return every rule's outcome on scores by seed, and the reason as one phrase."""
    common = obstacle(ticket, dense)
    if common is not None:
        return dict.fromkeys(RULES, common[0]), dict.fromkeys(RULES, common[1])
    asked = _claims(complete(ticket), complete(dense), delta)
    decided: dict[str, Outcome] = {}
    reasons: dict[str, str] = {}
    for rule in RULES:
        if rule in asked:
            decided[rule] = "matching" if asked[rule].holds else "not_matching"
            reasons[rule] = asked[rule].reason()
        else:
            decided[rule] = "no_verdict"
            reasons[rule] = f"{rule} needs {MIN_SEEDS[rule]} seeds, has {len(ticket)}"
    return decided, reasons


def obstacle(ticket: Scores, dense: Scores) -> tuple[Outcome, str] | None:
    """Return the outcome and reason that hold for every rule before any number is compared."""
    if ticket.keys() != dense.keys():
        unpaired = ", ".join(map(str, sorted(ticket.keys() ^ dense.keys())))
        return "no_verdict", f"only one side has a trial for seed {unpaired}"
    failed = sorted(seed for seed in ticket if not _scored(ticket[seed], dense[seed]))
    if failed:
        return "undecided", f"no score for seed {', '.join(map(str, failed))}: failed or not run"
    if len(ticket) < 2:
        return "no_verdict", f"a verdict needs 2 seeds, has {len(ticket)}"
    return None


def num_paired(ticket: Scores, dense: Scores) -> int:
    """Count the seeds scored on both sides."""
    return sum(_scored(ticket[seed], dense[seed]) for seed in ticket.keys() & dense.keys())


def complete(scores: Scores) -> list[float]:
    """Return the scores in the order of their seeds, or nothing where one of them is missing."""
    if not _scored(*scores.values()):
        return []
    return _plain([cast(Number, scores[seed]) for seed in sorted(scores)])


def losses(ticket: Sequence[float], dense: Sequence[float]) -> list[float]:
    """Return dense - ticket seed by seed."""
    return [full - sparse for full, sparse in zip(dense, ticket, strict=True)]


@dataclass(frozen=True)
class _Claim:
    """What a rule asks for: the left value is at most the right one."""

    left_name: str
    left: Number
    right_name: str
    right: Number

    @property
    def holds(self) -> bool:
        """Whether it is so; equality is."""
        return self.left <= self.right

    def reason(self) -> str:
        """Return the comparison as one phrase, such as "dense mean 0.9 > ticket mean 0.8"."""
        left, right = _distinct(self.left, self.right)
        sign = "=" if self.left == self.right else "<" if self.holds else ">"
        return f"{self.left_name} {left} {sign} {self.right_name} {right}"


def _claims(ticket: list[float], dense: list[float], delta: Number) -> dict[str, _Claim]:
    """Return what each rule asks of the paired scores, without the rules that need more seeds."""
    if len(ticket) < 2:
        return {}
    ticket_mean, dense_mean = mean(ticket), mean(dense)
    high = ("ticket mean + std", ticket_mean + sample_std(ticket))
    low = ("dense mean - std", dense_mean - sample_std(dense))
    plain_ticket, plain_dense = ("ticket mean", ticket_mean), ("dense mean", dense_mean)
    asked = {
        "subnetwork_std": _Claim(*plain_dense, *high),
        "full_std": _Claim(*low, *plain_ticket),
        "overlap": _Claim(*low, *high),
        "strict": _Claim(*plain_dense, *plain_ticket),
    }
    if len(ticket) >= MIN_SEEDS["noninferior"]:
        bound = paired_bound(losses(ticket, dense), CONFIDENCE)
        asked["noninferior"] = _Claim("upper bound of the loss", bound, "delta", float(delta))
    return asked


def _scored(*scores: Number | None) -> bool:
    return all(score is not None and math.isfinite(score) for score in scores)


def _plain(scores: Sequence[Number]) -> list[float]:
    """Return the scores typed as floats; `Decimal` stays what it is."""
    # Only +, - and comparisons follow, which Decimal shares with float; types cannot say so.
    return cast(list[float], list(scores))


def _distinct(left: Number, right: Number) -> tuple[str, str]:
    """Print two numbers with as few digits as show that they differ."""
    for digits in (4, 8, 12):
        texts = f"{left:.{digits}g}", f"{right:.{digits}g}"
        if left == right or texts[0] != texts[1]:
            return texts
    return str(left), str(right)
