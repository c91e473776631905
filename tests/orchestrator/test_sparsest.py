"""How far a curve goes, as laws: contiguous, any and leave-one-out (method rule 16)."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.verdicts import RULES, LevelScores, RuleCurve, judge_curve

SCORE = st.one_of(st.integers(86, 92).map(lambda x: x / 100), st.none())
DELTA = 0.02
LAW = settings(max_examples=60, deadline=None)  # the first quantile loads scipy


@st.composite
def curves(draw: st.DrawFn) -> list[LevelScores]:
    """Return up to six levels over two to four seeds; some have a seed without a score."""
    num = draw(st.integers(2, 4))
    scores = st.lists(SCORE, min_size=num, max_size=num)
    levels = draw(st.lists(st.integers(1, 99), max_size=6, unique=True))
    dense = dict.fromkeys(range(num), 0.9)
    return [
        LevelScores(level / 100, 10 * level, dict(enumerate(draw(scores))), dense)
        for level in levels
    ]


def outcome(level: LevelScores, rule: str) -> str:
    return judge_curve([level], DELTA).levels[0].outcomes[rule]


def reach(levels: list[LevelScores], rule: str) -> RuleCurve:
    return judge_curve(levels, DELTA).rules[rule]


@given(curves(), st.sampled_from(RULES))
@LAW
def test_reach_is_what_the_definition_says(levels: list[LevelScores], rule: str) -> None:
    """Contiguous: the largest s such that every evaluated s' <= s matches; any: the largest one."""
    matching = {level.sparsity for level in levels if outcome(level, rule) == "matching"}
    contiguous = [
        level.sparsity
        for level in levels
        if all(other.sparsity in matching for other in levels if other.sparsity <= level.sparsity)
    ]
    found = reach(levels, rule)
    assert found.sparsest_contiguous == max(contiguous, default=None)
    assert found.sparsest_any == max(matching, default=None)


@given(curves(), st.sampled_from(RULES), st.randoms())
@LAW
def test_what_was_not_evaluated_is_unknown(
    levels: list[LevelScores], rule: str, rng: random.Random
) -> None:
    """Taking a level away never shortens the contiguous run, unless it was its end."""
    before = reach(levels, rule).sparsest_contiguous
    for taken in levels:
        rest = [level for level in levels if level is not taken]
        rng.shuffle(rest)
        after = reach(rest, rule).sparsest_contiguous
        assert before is None or taken.sparsity == before or (after or 0.0) >= before


@given(curves(), st.sampled_from(RULES))
@LAW
def test_sparser_levels_do_not_reach_back(levels: list[LevelScores], rule: str) -> None:
    """What lies above the first level that does not match changes nothing below it."""
    ordered = sorted(levels, key=lambda level: level.sparsity)
    failing = [i for i, level in enumerate(ordered) if outcome(level, rule) != "matching"]
    cut = ordered[: failing[0] + 1] if failing else ordered
    assert reach(cut, rule).sparsest_contiguous == reach(levels, rule).sparsest_contiguous


@given(curves())
@LAW
def test_the_readings_are_ordered(levels: list[LevelScores]) -> None:
    """Contiguous <= any, Holm's <= any, and a range that is within the levels."""
    curve = judge_curve(levels, DELTA)
    places = {0.0, *(level.sparsity for level in levels)}
    for rule in RULES:
        found = curve.rules[rule]
        assert (found.sparsest_contiguous or 0.0) <= (found.sparsest_any or 0.0)
        if found.leave_one_out is not None:
            low, high = found.leave_one_out
            assert low <= high and {low, high} <= places
    assert (curve.sparsest_any_holm or 0.0) <= (curve.rules["noninferior"].sparsest_any or 0.0)
