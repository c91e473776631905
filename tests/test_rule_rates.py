"""The rates that docs/method.md states of the verdict rules are those of the rules' own code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rule_rates import passes, table
from orchestrator.rules import RULES, judge

PAGE = Path(__file__).parents[1] / "docs" / "method.md"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_many_comparisons_at_once_are_judged_as_one(rule: str, num_seeds: int) -> None:
    """The simulation's arrays say what the rule says of each pair of score lists."""
    draw = np.random.default_rng(num_seeds)
    ticket, dense = draw.normal(-0.5, 1, (200, num_seeds)), draw.normal(0, 1, (200, num_seeds))
    expected = [
        judge(rule, t.tolist(), d.tolist(), 1.0) for t, d in zip(ticket, dense, strict=True)
    ]
    assert passes(rule, ticket, dense, 1.0).tolist() == expected
    assert 0 < sum(map(bool, expected)) < 200


def test_the_page_states_the_simulated_rates() -> None:
    """Every cell of the page is within a hundredth and the error of 40,000 comparisons."""
    section = PAGE.read_text().split("## The five verdict rules")[1]
    rows = [
        re.findall(r"\| (\.\d+)", line) for line in section.splitlines() if re.match(r"\| `", line)
    ]
    found = table(num=40_000)
    assert len(found) == 6
    for (label, rates), row in zip(found, rows, strict=False):
        assert [float(cell) for cell in row] == pytest.approx(rates, abs=0.015), label
