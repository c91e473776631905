"""Exact match and F1 by the official rules, against a reference written another way."""

from __future__ import annotations

import string
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.answers import exact_match, normalised, token_f1

TEXTS = st.lists(
    st.sampled_from(["the", "The", "a", "an", "Denver", "Broncos,", "24–10", "é", "\u00a0", "1.5"]),
    max_size=6,
).map(" ".join)


def words_of(text: str) -> list[str]:
    """Return a text's words by the four official steps, one character and word at a time.

    Lower case; ASCII punctuation away; articles away where letters, digits and underscores do
    not touch them; split at white space.
    """
    letters = [c for c in text.lower() if c not in set(string.punctuation)]
    words, word = [], ""
    for char in [*letters, " "]:
        if char.isalnum() or char == "_":
            word += char
            continue
        words.append(" " if word in ("a", "an", "the") else word)
        words.append(char)
        word = ""
    return "".join(words).split()


def reference_f1(text: str, gold: str) -> Fraction:
    """Return 2 PR / (P + R) of the bags of words."""
    ours, theirs = words_of(text), words_of(gold)
    rest, same = list(theirs), 0
    for word in ours:
        if word in rest:
            rest.remove(word)
            same += 1
    if not same:
        return Fraction(0)
    precision, recall = Fraction(same, len(ours)), Fraction(same, len(theirs))
    return 2 * precision * recall / (precision + recall)


@given(text=TEXTS, golds=st.lists(TEXTS, min_size=1, max_size=3))
def test_scores_equal_the_reference(text: str, golds: list[str]) -> None:
    assert normalised(text).split() == words_of(text)
    assert exact_match(text, golds) == float(any(words_of(text) == words_of(g) for g in golds))
    assert token_f1(text, golds) == pytest.approx(float(max(reference_f1(text, g) for g in golds)))


@pytest.mark.parametrize(
    ("text", "golds", "exact", "f1"),
    [
        ("Denver Broncos", ["Denver Broncos"], 1, 1),
        ("the Denver  broncos!", ["Denver Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos", "The Broncos"], 1, 1),
        ("Denver", ["Denver Broncos"], 0, 2 / 3),
        ("Santa Clara, California", ["Levi's Stadium in Santa Clara"], 0, 4 / 8),
        ("café", ["cafe"], 0, 0),  # accents count
        ("São Paulo", ["são paulo"], 1, 1),
        ("10\u00a0km", ["10 km"], 1, 1),  # a no-break space is white space
        ("“golden”", ["golden"], 0, 0),  # only ASCII punctuation falls away
        ("24-10", ["2410"], 1, 1),  # and nothing takes its place
        ("theatre", ["the atre"], 0, 0),
        ("", ["Denver"], 0, 0),
        ("the", ["a"], 1, 0),  # nothing left on both sides: equal, but no word in common
    ],
)
def test_hand_made_answers(text: str, golds: list[str], exact: float, f1: float) -> None:
    assert exact_match(text, golds) == exact
    assert token_f1(text, golds) == pytest.approx(f1)
