"""Transfer tables: the published one, one by hand, and any."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st

from orchestrator.transfer import Pair, TransferCell, TransferScores, judge_transfer

FIGURE2 = json.loads((Path(__file__).parent / "data" / "chen2020_figure2.json").read_text())
CENTS = st.integers(0, 100).map(lambda x: Decimal(x) / 100)
NAMES = ("a", "b", "c")
LAW = settings(deadline=None)  # the first quantile loads scipy
Scored = dict[int, float | Decimal | None]


def seeded(*scores: float | Decimal | None) -> Scored:
    return dict(enumerate(scores))


def published() -> dict[Pair, Decimal]:
    return {
        (row["source"], target): Decimal(difference)
        for row in FIGURE2["rows"]
        for target, difference in zip(FIGURE2["targets"], row["differences"], strict=True)
    }


def table(**changes: object) -> TransferScores:
    """Return two tasks and theta0: a -> b is as good as b -> b, b -> a is worse than a -> a."""
    cells = {
        ("a", "a"): seeded(0.90, 0.91, 0.92),
        ("a", "b"): seeded(0.80, 0.81, 0.82),
        ("b", "a"): seeded(0.80, 0.82, 0.81),
        ("b", "b"): seeded(0.82, 0.80, 0.81),
        ("theta0", "a"): seeded(0.91, 0.91, 0.92),
        ("theta0", "b"): seeded(0.10, None, None),
    }
    made = TransferScores(
        sources=("a", "b", "theta0"),
        targets=("a", "b"),
        cells=cells,
        dense={"a": seeded(0.90, 0.91, 0.92), "b": seeded(0.83, 0.83, 0.83)},
        deltas={"a": 0.01, "b": 0.01},
        lost_futility=frozenset({("theta0", "b")}),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def cell_of(scores: TransferScores, source: str, target: str) -> TransferCell:
    return judge_transfer(scores).cells[source, target]


@st.composite
def tables(draw: st.DrawFn) -> TransferScores:
    """Return a table of three tasks with holes, on Decimals."""
    num = draw(st.integers(1, 4))
    score = st.one_of(CENTS, CENTS, CENTS, st.none())

    def side() -> Scored:
        return seeded(*draw(st.lists(score, min_size=num, max_size=num)))

    cells = {(source, target): side() for source in NAMES for target in NAMES}
    stopped = draw(st.frozensets(st.sampled_from(list(cells)), max_size=3))
    dense, deltas = {name: side() for name in NAMES}, dict.fromkeys(NAMES, Decimal("0.05"))
    return TransferScores(NAMES, NAMES, cells, dense, deltas, stopped)
