"""Made-up scores of one level of sparsity."""

from collections.abc import Sequence
from decimal import Decimal

from orchestrator.verdicts import LevelScores


def seeded(scores: Sequence[float | Decimal | None]) -> dict[int, float | Decimal | None]:
    return dict(enumerate(scores))


def level(
    sparsity: float,
    ticket: Sequence[float | Decimal | None],
    dense: Sequence[float | Decimal | None] = (0.9, 0.9, 0.9, 0.9),
) -> LevelScores:
    return LevelScores(sparsity, round(1000 * sparsity), seeded(ticket), seeded(dense))


def good(sparsity: float, num: int = 4) -> LevelScores:
    return level(sparsity, [0.9] * num, [0.9] * num)


def bad(sparsity: float, num: int = 4) -> LevelScores:
    return level(sparsity, [0.5] * num, [0.9] * num)
