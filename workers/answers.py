"""Exact match and F1 of an answer's text, by the rules of SQuAD v1.1's official script.

Source: Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1, and evaluate-v1.1.py.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return a text in lower case, without punctuation (ASCII) and articles, spaces collapsed."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(text: str, golds: Sequence[str]) -> float:
    """Return 1 if the answer equals one of the right ones, both normalised, else 0."""
    return float(any(normalised(text) == normalised(gold) for gold in golds))


def token_f1(text: str, golds: Sequence[str]) -> float:
    """Return the best F1 of an answer's words against the right ones', all normalised."""
    return max(_f1(normalised(text).split(), normalised(gold).split()) for gold in golds)


def _f1(words: list[str], gold: list[str]) -> float:
    num_same = (Counter(words) & Counter(gold)).total()
    return 2 * num_same / (len(words) + len(gold)) if num_same else 0.0
