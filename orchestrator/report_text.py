"""How the report writes numbers, and the one sentence that it says of each curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.report_tables import ControlRow, VerdictRow
from orchestrator.rules import Number

MISSING = "–"
MINUS = "\N{MINUS SIGN}"
OUTCOME_WORDS = {
    "matching": "yes",
    "not_matching": "no",
    "undecided": "undecided",
    "no_verdict": "no verdict",
}
RULE_TEXTS = {
    "noninferior": "the one-sided 95% upper bound of the paired mean loss is at most delta",
    "subnetwork_std": "ticket mean + its standard deviation reaches the dense mean",
    "full_std": "ticket mean reaches the dense mean − its standard deviation",
    "overlap": "ticket mean + deviation reaches dense mean − deviation",
    "strict": "ticket mean reaches the dense mean",
}
FLAG_TEXTS = {
    "noisy": "the ticket's deviation is 0, or above three times the dense one",
    "dev_noise": "one example more or less moves the score by as much as another seed does",
    "degenerate": "a fine-tuned ticket predicts the same for every example",
    "collapsed": "a matrix is left with under 1% of its weights",
    "mixed_numerics": "the scores compared come from more than one numerics class",
    "not_theta0": "the ticket starts from a later step or from trained weights: no winning ticket "
    "at theta_0, and not registered",
}


@dataclass(frozen=True)
class Headline:
    """What a curve says in one or two sentences; `state` is best, none, undecided or pending."""

    state: str
    text: str


def show_score(value: Number | None) -> str:
    """Return a score with four decimals."""
    return MISSING if value is None else f"{value:.4f}".replace("-", MINUS)


def show_signed(value: Number | None) -> str:
    """Return a difference with its sign and four decimals."""
    # A bound of exactly 0 may come as -0.0, which adding 0 mends.
    return MISSING if value is None else f"{value + 0:+.4f}".replace("-", MINUS)


def show_points(value: Number | None, sign: str = "") -> str:
    """Return a fraction of the metric as points; what rounds to zero has no sign.

    Args:
        value: The fraction.
        sign: '+' where rises shall have theirs too.
    """
    if value is None:
        return MISSING
    points = round(100 * float(value), 2) or 0.0
    return format(points, f"{sign if points else ''}.2f").replace("-", MINUS)


def show_pvalue(value: float | None) -> str:
    """Return a p-value with three digits; one below what they tell reads as a bound."""
    if value is None:
        return MISSING
    return "< 0.0001" if value < 1e-4 else f"{value:.3g}"


def show_interval(interval: tuple[float, float] | None) -> str:
    """Return an interval of differences as ``[low, high]``."""
    if interval is None:
        return MISSING
    return f"[{show_signed(interval[0])}, {show_signed(interval[1])}]"


def show_percent(fraction: float | None) -> str:
    """Return a sparsity as percent; one below 1 never reads 100%."""
    if fraction is None:
        return MISSING
    for digits in range(3, 17):
        text = f"{100 * fraction:.{digits}g}"
        if fraction >= 1 or float(text) < 100:
            break
    return f"{text}%"


def show_share(fraction: float) -> str:
    """Return a matrix's sparsity as percent with one decimal, as columns of numbers need it."""
    return f"{fraction:.1%}"


def show_count(value: int | None) -> str:
    """Return a count with thousands separated."""
    return MISSING if value is None else f"{value:,}"


def show_seconds(value: float | None) -> str:
    """Return a duration in the unit that people would use."""
    if value is None:
        return MISSING
    size, unit = (1, "s") if value < 120 else (60, "min") if value < 7200 else (3600, "h")
    return f"{value / size:,.1f} {unit}"


def show_rule(rule: str, delta: float) -> str:
    """Return a rule's name, with delta where it has a part in it."""
    return f"{rule} with delta {delta:g}" if rule == "noninferior" else rule


def headline(rows: Sequence[VerdictRow], rule: str, delta: float) -> Headline:
    """Say what one curve came to.

    Args:
        rows: The levels of one model, task and method, sparsest last; empty where none was run.
        rule: The sweep's rule.
        delta: The task's margin.
    """
    if not rows:
        return Headline("pending", "No level has been evaluated yet.")
    place = next((index for index, row in enumerate(rows) if row.is_best), None)
    if place is not None:
        following = rows[place + 1] if place + 1 < len(rows) else None
        return Headline("best", _best(rows[place], following, rule, delta))
    first, outcome = rows[0], rows[0].outcomes[rule]
    if outcome == "not_matching":
        text = (
            f"No level matches under {show_rule(rule, delta)}: already at "
            f"{show_percent(first.sparsity)}, the least sparse level evaluated, "
            f"select is {show_score(first.ticket_mean)} against {show_score(first.dense_mean)} "
            f"dense ({first.reason})."
        )
        return Headline("none", text)
    word = OUTCOME_WORDS[outcome].capitalize()
    return Headline("undecided", f"{word} at {show_percent(first.sparsity)}: {first.reason}.")


def _best(row: VerdictRow, following: VerdictRow | None, rule: str, delta: float) -> str:
    sentences = [
        f"The best ticket removes {show_percent(row.sparsity)} of the prunable weights "
        f"({show_count(row.num_removed)}): select {show_score(row.ticket_mean)} against "
        f"{show_score(row.dense_mean)} dense, report {show_score(row.report_mean)} against "
        f"{show_score(row.report_dense_mean)} dense.",
        f"It matches on select under {show_rule(rule, delta)}, n = {row.num_seeds}; "
        f"on report the same rule says: {_outcome(row.report_outcome)}.",
    ]
    if row.same_split:
        sentences.append("Select and report are the same examples here.")
    sentences += [_against(control) for control in row.controls]
    if following is None:
        sentences.append("It is the sparsest level evaluated: a sparser ticket may exist.")
    else:
        outcome = _outcome(following.outcomes[rule])
        sentences.append(
            f"The next level, {show_percent(following.sparsity)}, is {outcome}: {following.reason}."
        )
    return " ".join(sentences)


def _against(control: ControlRow) -> str:
    if control.beats is None:
        return f"Against {control.name} there is no verdict."
    word = "beats" if control.beats else "does not beat"
    return f"It {word} {control.name} (lower bound {show_signed(control.lower_bound)})."


def _outcome(outcome: str) -> str:
    return {"no_verdict": "without a verdict"}.get(outcome, outcome.replace("_", " "))
