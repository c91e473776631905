"""From a sweep's trials and results to its transfer tables, one for each model and split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.judging import REPORT, SELECT
from orchestrator.transfer import (
    Pair,
    TransferCell,
    TransferMatrix,
    TransferScores,
    is_futile,
    judge_transfer,
)
from search_spaces.contracts import TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.transfers import sources_of
from search_spaces.trial import Trial

Keys = Mapping[int, str]  # a trial's key by replicate


@dataclass(frozen=True)
class TransferCells:
    """The trials of one model's transfer table, by replicate.

    Attributes:
        sources: Rows.
        targets: Columns.
        num_removed: K, equal in all cells.
        cells: Trials of each source on each target; (T, T) are T's own tickets.
        dense: Trials of each target without a mask.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    num_removed: int
    cells: Mapping[Pair, Keys] = field(default_factory=dict)
    dense: Mapping[str, Keys] = field(default_factory=dict)


@dataclass(frozen=True)
class TransferTable:
    """A judged table of one model and split.

    Attributes:
        model: The model's name in the sweep.
        split: ``select``, which decides, or ``report``, which is told.
        sparsity: As the sweep has it.
        num_removed: K, equal in all cells.
        matrix: What was judged.
        trial_keys: By cell those trials that have a result, by replicate.
    """

    model: str
    split: str
    sparsity: float
    num_removed: int
    matrix: TransferMatrix
    trial_keys: Mapping[Pair, Keys] = field(default_factory=dict)

    @property
    def asked(self) -> dict[Pair, TransferCell]:
        """The cells that the sweep asks for, each source's row after the other."""
        cells = self.matrix.cells
        return {pair: cell for pair, cell in cells.items() if cell.state != "not_asked"}


@dataclass(frozen=True)
class SourceOverlaps:
    """Weights that two sources' masks both keep / that either keeps, mean over the seeds.

    Attributes:
        model: The model's name in the sweep.
        names: Sources.
        values: By row and column; None where a mask does not exist yet.
        by_chance: What two random masks of this sparsity overlap by.
    """

    model: str
    names: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    by_chance: float


def transfer_cells(spec: SweepSpec, trials: Iterable[Trial]) -> dict[str, TransferCells]:
    """Return the trials of the transfer tables, by model; none where a sweep has no transfer."""
    transfer = spec.transfer
    if transfer is None:
        return {}
    tasks = tuple(task.name for task in spec.tasks)
    sources = tuple(source.name for source in sources_of(transfer, tasks))
    targets = transfer.targets or tasks
    chosen = list(trials)
    counts = {
        role.model: trial.spec.num_removed
        for trial in chosen
        for role in trial.roles
        if role.kind == "transfer"
    }
    cells: dict[str, dict[Pair, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    dense: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for trial in chosen:
        for role in trial.roles:
            if role.kind == "dense":
                dense[role.model][role.task][role.seed] = trial.key
            elif trial.spec.num_removed != counts.get(role.model):
                continue
            elif role.kind == "transfer":
                cells[role.model][role.source_task, role.task][role.seed] = trial.key
            elif role.kind == "final" and role.method == transfer.method:
                cells[role.model][role.task, role.task][role.seed] = trial.key
    return {
        model: TransferCells(sources, targets, num, cells[model], dense[model])
        for model, num in counts.items()
    }


def judge_transfers(
    spec: SweepSpec, trials: Sequence[Trial], results: Mapping[str, TrialResult]
) -> list[TransferTable]:
    """Judge the transfer tables of a sweep on its select and its report split.

    Cells are stopped on ``select`` alone, and shown as stopped on both.

    Args:
        spec: The sweep.
        trials: Its trials.
        results: Committed results by trial key.
    """
    tables = []
    for model, cells in transfer_cells(spec, trials).items():
        lost = frozenset(pair for pair in cells.cells if is_lost(spec, cells, pair, results))
        for split in (SELECT, REPORT):
            matrix = judge_transfer(_scores(spec, cells, results, split, lost))
            keys = {
                pair: {seed: key for seed, key in by_seed.items() if key in results}
                for pair, by_seed in cells.cells.items()
                if pair in matrix.cells
            }
            num = cells.num_removed
            sparsity = spec.transfer.sparsity if spec.transfer else 0.0
            tables.append(TransferTable(model, split, sparsity, num, matrix, keys))
    return tables


def lost_trials(
    spec: SweepSpec, trials: Sequence[Trial], read: Callable[[str], TrialResult | None]
) -> dict[str, str]:
    """Return the trials that are not worth while any more, and why, by key.

    Args:
        spec: The sweep; nothing is lost unless its transfer is adaptive.
        trials: Its trials.
        read: Returns a committed result by trial key.
    """
    if spec.transfer is None or not spec.transfer.adaptive:
        return {}
    waiting = {trial.key for trial in trials if trial.after}
    found: dict[str, str] = {}
    for cells in transfer_cells(spec, trials).values():
        for pair in cells.cells:
            found |= lost_of(spec, cells, pair, read)
    return {key: why for key, why in found.items() if key in waiting}


def lost_of(
    spec: SweepSpec,
    cells: TransferCells,
    pair: Pair,
    read: Callable[[str], TrialResult | None],
) -> dict[str, str]:
    """Return the other seeds of one cell if it is lost, and why, by key."""
    results = {key: one for key in deciders(spec, cells, pair) if (one := read(key))}
    if not is_lost(spec, cells, pair, results):
        return {}
    why = f"{pair[0]} on {pair[1]} is clearly lost after one seed"
    return {cells.cells[pair][seed]: why for seed in spec.seeds[1:]}


def deciders(spec: SweepSpec, cells: TransferCells, pair: Pair) -> list[str]:
    """Return the trials that decide on a cell: its first seed and the target's own tickets."""
    own = cells.cells.get((pair[1], pair[1]), {})
    return [cells.cells[pair][spec.seeds[0]], *own.values()]


def is_lost(
    spec: SweepSpec, cells: TransferCells, pair: Pair, results: Mapping[str, TrialResult]
) -> bool:
    """Whether a cell is to be stopped: clearly worse on ``select`` after its first seed.

    Undecided, so False, until that seed and all of the target's own tickets are in.
    """
    source, target = pair
    if spec.transfer is None or not spec.transfer.adaptive or source == target:
        return False
    first = cells.cells[pair].get(spec.seeds[0])
    own = cells.cells.get((target, target), {})
    wanted = [first, *(own.get(seed) for seed in spec.seeds)]
    if any(key is None or key not in results for key in wanted):
        return False
    split = scored_split(spec, target, SELECT)
    score, *same = (results[key].primary(split) for key in wanted if key is not None)
    return is_futile(score, same, _delta(spec, target))


def scored_split(spec: SweepSpec, task: str, split: str) -> str:
    """Return the split of a task's results that stands for ``select`` or ``report``."""
    found = next(one for one in spec.tasks if one.name == task)
    same = spec.same_split(found)
    return spec.report_split_of(found) if split == REPORT or same else SELECT


def _scores(
    spec: SweepSpec,
    cells: TransferCells,
    results: Mapping[str, TrialResult],
    split: str,
    lost: frozenset[Pair],
) -> TransferScores:
    def of(keys: Keys, task: str) -> dict[int, float | None]:
        where = scored_split(spec, task, split)
        found = {seed: results.get(keys.get(seed, "")) for seed in spec.seeds}
        return {seed: result.primary(where) if result else None for seed, result in found.items()}

    in_table = {
        pair: keys
        for pair, keys in cells.cells.items()
        if pair[0] in cells.sources and pair[1] in cells.targets
    }
    # A target that is no source has a diagonal all the same: its own tickets, which others meet.
    own = {(task, task): cells.cells.get((task, task), {}) for task in cells.targets}
    sources = tuple(dict.fromkeys((*cells.sources, *cells.targets)))
    return TransferScores(
        sources=sources,
        targets=cells.targets,
        cells={pair: of(keys, pair[1]) for pair, keys in {**own, **in_table}.items()},
        dense={task: of(cells.dense.get(task, {}), task) for task in cells.targets},
        deltas={task: _delta(spec, task) for task in cells.targets},
        lost_futility=lost,
        own_only=frozenset(cells.targets) - frozenset(cells.sources),
    )


def _delta(spec: SweepSpec, task: str) -> float:
    return spec.delta_of(next(one for one in spec.tasks if one.name == task))
