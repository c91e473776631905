"""The transfer table: does a mask found on one task serve another (method rule 20).

A row is where the mask comes from, a column is the task that it is fine-tuned on. A cell is *dark*
where the foreign mask does at least as well as the target's own: m(S->T) >= m(T->T), unrounded and
over the same seeds. Scores are oriented so that higher is better; on `Decimal` scores means,
deviations and dark cells are exact.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, TypeAlias, cast

from orchestrator.rules import (
    CONFIDENCE,
    DEFAULT_RULE,
    Number,
    Scores,
    complete,
    judge,
    losses,
    num_paired,
)
from orchestrator.statistics import (
    MIN_T_INTERVAL,
    holm,
    mean,
    noninferiority_pvalue,
    sample_std,
    t_interval,
)

Pair: TypeAlias = tuple[str, str]  # source, target
CellState: TypeAlias = Literal[
    "judged", "diagonal", "lost_futility", "undecided", "not_run", "not_asked"
]

FUTILITY_STDS = 4
FUTILITY_DELTAS = 3
MIN_SAME_TASK = 2


@dataclass(frozen=True)
class TransferScores:
    """What was measured.

    Attributes:
        sources: Where the masks come from, in the order of the table. One that is no target, such
            as 'theta0' or a mask file, has no diagonal and is compared all the same.
        targets: The tasks that the masks are fine-tuned on, in the order of the table.
        cells: Score by seed of each (source, target); None = failed or not run. The cell (T, T) is
            the ticket of T itself.
        dense: Score by seed of each target without a mask.
        deltas: For each target the largest loss that `noninferior` accepts, in its metric's units.
        lost_futility: Cells that were stopped because they were lost.
        own_only: Rows that are no sources: targets whose own mask alone is compared with.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    cells: Mapping[Pair, Scores]
    dense: Mapping[str, Scores]
    deltas: Mapping[str, Number]
    lost_futility: frozenset[Pair] = frozenset()
    own_only: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TransferCell:
    """One source on one target; numbers are None where the seeds do not allow them.

    Attributes:
        source: Where the mask comes from.
        target: The task that it was fine-tuned on.
        state: 'judged' where every seed has a score; 'diagonal' where that holds of a task's own
            mask; 'lost_futility' where the cell was stopped: what is there is shown, and nothing
            is judged on it; 'undecided' where a seed has no score; 'not_run' where none has;
            'not_asked' where the row is no source, so that the cell belongs to no count or test.
        n: Seeds with a score.
        mean: Of the scores; where the cell was stopped, of those there are.
        std: Of the scores, ddof 1.
        dark: Whether the mean is at least that of (T, T) over the same seeds.
        difference_same_task: Mean of S->T minus T->T.
        difference_dense: Mean of S->T minus dense, paired on the seeds.
        difference_std: Sample deviation of that difference over the seeds, ddof 1.
        interval: Its two-sided 95% t interval, n >= 3.
        noninferior: Whether the cell is `noninferior` to dense, n >= 3.
        pvalue: Against "the mean loss to dense is above delta", n >= 3.
        pvalue_holm: The same after Holm's correction over all cells off the diagonal; a cell
            without a p-value counts as 1 there, so that stopping it makes no other one easier.
    """

    source: str
    target: str
    state: CellState
    n: int
    mean: Number | None = None
    std: Number | None = None
    dark: bool | None = None
    difference_same_task: Number | None = None
    difference_dense: Number | None = None
    difference_std: Number | None = None
    interval: tuple[float, float] | None = None
    noninferior: bool | None = None
    pvalue: float | None = None
    pvalue_holm: float | None = None


@dataclass(frozen=True)
class DarkCount:
    """How many of a source's targets are dark, its own task left out.

    Attributes:
        num_dark: Dark cells.
        num_known: Cells that are dark, light or lost; the others may still become dark.
        num_targets: All cells of the source off the diagonal.
    """

    num_dark: int
    num_known: int
    num_targets: int


@dataclass(frozen=True)
class TransferMatrix:
    """The judged table: a cell for each source and target, and each source's count."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    cells: Mapping[Pair, TransferCell]
    counts: Mapping[str, DarkCount]


def is_futile(score: Number, same_task_scores: Sequence[Number], delta: Number) -> bool:
    """Say whether a cell is lost after one seed: score < m(T->T) - max(4 s_T, 3 delta).

    Args:
        score: Of the first seed of S->T; one that is not finite is never futile but undecided.
        same_task_scores: Of T->T by seed; with fewer than two nothing is ever stopped.
        delta: The target's margin, in its metric's units.
    """
    if len(same_task_scores) < MIN_SAME_TASK:
        return False
    own = cast(Sequence[float], same_task_scores)
    centre = mean(own)
    margin = max(FUTILITY_STDS * sample_std(own), FUTILITY_DELTAS * _as(delta, centre))
    return math.isfinite(score) and score < centre - margin


def is_dark(transfer_mean: Number, same_task_mean: Number) -> bool:
    """Say whether a foreign mask does at least as well as the task's own; equality does."""
    return transfer_mean >= same_task_mean


def count_dark(means: Mapping[Pair, Number]) -> dict[str, int]:
    """Return each source's number of dark cells from means alone, the diagonal left out.

    Args:
        means: Of each (source, target), over equally many seeds; differences to dense serve as
            well. A target T without (T, T) has no dark cells.
    """
    counts = {source: 0 for source, _ in means}
    for (source, target), found in means.items():
        own = means.get((target, target))
        if source != target and own is not None:
            counts[source] += is_dark(found, own)
    return counts


def judge_transfer(scores: TransferScores) -> TransferMatrix:
    """Judge every cell of a transfer table and count each source's dark ones.

    Seeds are never dropped: a cell in which one failed is undecided, and a cell whose seeds are
    not those of T->T is neither dark nor light.

    Raises:
        ValueError: A name is given twice, a target has no delta, or a cell was measured or
            stopped that the table does not have.
    """
    _check(scores)
    pairs = [(source, target) for source in scores.sources for target in scores.targets]
    cells = _corrected({pair: _cell(scores, pair) for pair in pairs})
    counts = {source: _count(source, cells) for source in scores.sources}
    return TransferMatrix(scores.sources, scores.targets, cells, counts)


def _check(scores: TransferScores) -> None:
    for what, names in (("source", scores.sources), ("target", scores.targets)):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{what} {', '.join(twice)} is given twice")
    without = [target for target in scores.targets if target not in scores.deltas]
    if without:
        raise ValueError(f"target {', '.join(without)} has no delta")
    for source, target in (*scores.cells, *scores.lost_futility):
        if source not in scores.sources or target not in scores.targets:
            raise ValueError(f"cell {source} -> {target} is not in the table")


def _cell(scores: TransferScores, pair: Pair) -> TransferCell:
    own, dense = scores.cells.get(pair, {}), scores.dense.get(pair[1], {})
    cell = TransferCell(*pair, state=_state(scores, pair), n=num_paired(own, own))
    if cell.state == "lost_futility":
        return _stopped(cell, own, dense)
    if cell.state in ("undecided", "not_run", "not_asked"):
        return cell
    same_task = scores.cells.get((pair[1], pair[1]), {})
    return _against_dense(_scored(cell, own, same_task), own, dense, scores.deltas[pair[1]])


def _state(scores: TransferScores, pair: Pair) -> CellState:
    if pair[0] in scores.own_only and pair[0] != pair[1]:
        return "not_asked"
    own = scores.cells.get(pair, {})
    if complete(own):
        return "diagonal" if pair[0] == pair[1] else "judged"
    if pair in scores.lost_futility:
        return "lost_futility"
    # A score that is not finite was run: it diverged.
    return "not_run" if all(score is None for score in own.values()) else "undecided"


def _stopped(cell: TransferCell, own: Scores, dense: Scores) -> TransferCell:
    """Return the cell with the numbers of the seeds that were run."""
    there = {seed: score for seed, score in own.items() if complete({seed: score})}
    beside = {seed: dense.get(seed) for seed in there}
    return replace(cell, mean=_mean(complete(there)), difference_dense=_mean(_gains(there, beside)))


def _scored(cell: TransferCell, own: Scores, same_task: Scores) -> TransferCell:
    """Return the cell with its mean, and how that compares with the target's own mask."""
    ours, theirs = complete(own), complete(same_task)
    cell = replace(cell, mean=mean(ours), std=_std(ours))
    if not theirs or own.keys() != same_task.keys():
        return cell
    gain = mean(losses(theirs, ours))
    return replace(cell, dark=is_dark(mean(ours), mean(theirs)), difference_same_task=gain)


def _against_dense(cell: TransferCell, own: Scores, dense: Scores, delta: Number) -> TransferCell:
    """Return the cell with its paired difference to dense."""
    gains = _gains(own, dense)
    cell = replace(cell, difference_dense=_mean(gains), difference_std=_std(gains))
    if len(gains) < MIN_T_INTERVAL:
        return cell
    return replace(
        cell,
        interval=t_interval(gains, CONFIDENCE),
        noninferior=judge(DEFAULT_RULE, complete(own), complete(dense), delta),
        pvalue=noninferiority_pvalue([-gain for gain in gains], float(delta)),
    )


def _gains(ours: Scores, theirs: Scores) -> list[float]:
    """Return ours - theirs by seed; nothing where the seeds differ or one has no score."""
    if ours.keys() != theirs.keys() or not complete(theirs):
        return []
    return losses(complete(theirs), complete(ours))


def _corrected(cells: Mapping[Pair, TransferCell]) -> dict[Pair, TransferCell]:
    """Return the cells with p-values corrected over all of those off the diagonal."""
    family = [pair for pair, cell in cells.items() if _is_asked(cell)]
    pvalues = [cells[pair].pvalue for pair in family]
    adjusted = holm([1.0 if pvalue is None else pvalue for pvalue in pvalues])
    tested = {
        pair: value
        for pair, value in zip(family, adjusted, strict=True)
        if cells[pair].pvalue is not None
    }
    return {pair: replace(cell, pvalue_holm=tested.get(pair)) for pair, cell in cells.items()}


def _is_asked(cell: TransferCell) -> bool:
    """Whether a cell is one of those that are counted and tested: off the diagonal, of a source."""
    return cell.source != cell.target and cell.state != "not_asked"


def _count(source: str, cells: Mapping[Pair, TransferCell]) -> DarkCount:
    own = [cell for cell in cells.values() if cell.source == source and _is_asked(cell)]
    known = [cell for cell in own if cell.dark is not None or cell.state == "lost_futility"]
    return DarkCount(sum(cell.dark is True for cell in own), len(known), len(own))


def _as(delta: Number, like: Number) -> float:
    """Return delta in the type of a score; a Decimal stays what was typed."""
    return cast(float, Decimal(str(delta)) if isinstance(like, Decimal) else float(delta))


def _mean(xs: Sequence[float]) -> float | None:
    return mean(xs) if xs else None


def _std(xs: Sequence[float]) -> float | None:
    return sample_std(xs) if len(xs) > 1 else None
