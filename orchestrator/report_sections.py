"""Masks, costs, failures and provenance of a sweep as plain data for the report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.judging import SELECT
from search_spaces.contracts import MaskInfo, NumericsClass, TrialResult
from search_spaces.prunable import LAYER_MATRICES
from search_spaces.trial import KIND_ORDER, ModelIdentity, TaskIdentity, Trial

PHASES = ("load", "train", "evaluate", "prune", "total")
_LAYER_MATRIX = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.weight")


@dataclass(frozen=True)
class MatrixCell:
    """One matrix under the masks of all seeds: mean, lowest and highest sparsity."""

    mean: float
    lowest: float
    highest: float
    collapsed: bool


@dataclass(frozen=True)
class MatrixTable:
    """Sparsity of each matrix at one level.

    Attributes:
        sparsity: Of the level.
        num_masks: Number of masks that the cells are over.
        columns: Kinds of matrices, in the order of a layer.
        layers: By layer a cell for each column, None where there is no such matrix.
        others: Matrices outside the layers, by name.
    """

    sparsity: float
    num_masks: int
    columns: tuple[str, ...]
    layers: Mapping[int, tuple[MatrixCell | None, ...]]
    others: Mapping[str, MatrixCell]


@dataclass(frozen=True)
class CostRow:
    """What the trials of one kind cost; None where no result tells."""

    kind: str
    num_trials: int
    num_finished: int
    num_steps: int
    num_train_tokens: int
    seconds: Mapping[str, float | None]
    peak_memory_gib: float | None


@dataclass(frozen=True)
class TrialRow:
    """One trial: its names, key, attempt and scores."""

    key: str
    labels: tuple[str, ...]
    state: str
    attempt: str | None
    scores: Mapping[str, float]
    started_at: str | None


@dataclass(frozen=True)
class FailureRow:
    """A trial that failed for good, and why."""

    key: str
    label: str
    message: str


def matrix_table(
    sparsity: float, keys: Sequence[str], results: Mapping[str, TrialResult]
) -> MatrixTable | None:
    """Return the sparsity of every matrix under the masks of one level.

    Args:
        sparsity: Of the level.
        keys: Its final trials.
        results: Committed results by trial key.

    Returns:
        None where no result knows its mask.
    """
    found = [results[key].input_mask for key in keys if key in results]
    masks = [mask for mask in found if mask is not None]
    if not masks:
        return None
    cells = {name: _cell(name, masks) for name in masks[0].sparsity_per_matrix}
    placed = {name: place for name in cells if (place := _place(name))}
    columns = [kind for kind in LAYER_MATRICES if kind in {kind for _, kind in placed.values()}]
    by_place = {place: cells[name] for name, place in placed.items()}
    layers = sorted({layer for layer, _ in by_place})
    return MatrixTable(
        sparsity,
        len(masks),
        tuple(_column(kind) for kind in columns),
        {layer: tuple(by_place.get((layer, kind)) for kind in columns) for layer in layers},
        {name: cell for name, cell in cells.items() if name not in placed},
    )


def cost_rows(trials: Sequence[Trial], results: Mapping[str, TrialResult]) -> list[CostRow]:
    """Return a row for each kind of trial, and their sum last."""
    groups: dict[str, list[Trial]] = {kind: [] for kind in KIND_ORDER}
    for trial in trials:
        groups[trial.kind].append(trial)
    rows = [_cost(kind, group, results) for kind, group in groups.items() if group]
    return [*rows, _cost("all", trials, results)]


def failure_rows(trials: Sequence[Trial], failed: Mapping[str, str]) -> list[FailureRow]:
    """Return the trials that failed, in the order of the sweep."""
    labels = {trial.key: trial.main_role.label for trial in trials}
    known = [key for key in labels if key in failed]
    return [FailureRow(key, labels[key], failed[key]) for key in known]


def trial_rows(
    trials: Sequence[Trial], results: Mapping[str, TrialResult], failed: Mapping[str, str]
) -> list[TrialRow]:
    """Return every trial of the sweep with what is known of it."""
    return [_trial(trial, results.get(trial.key), trial.key in failed) for trial in trials]


def identities(
    trials: Sequence[Trial],
) -> tuple[dict[str, ModelIdentity], dict[str, TaskIdentity]]:
    """Return what the models and tasks are by content, by their names in the sweep."""
    models, tasks = {}, {}
    for trial in trials:
        for role in trial.roles:
            models[role.model], tasks[role.task] = trial.spec.model, trial.spec.task
    return models, tasks


def numerics_classes(results: Mapping[str, TrialResult]) -> list[tuple[NumericsClass, int]]:
    """Return each numerics class with its number of results, the commonest first."""
    classes = {result.numerics.model_dump_json(): result.numerics for result in results.values()}
    counts = Counter(result.numerics.model_dump_json() for result in results.values())
    return [(classes[text], num) for text, num in counts.most_common()]


def _place(name: str) -> tuple[int, str] | None:
    """Return the layer and kind of a matrix that belongs to a layer."""
    match = _LAYER_MATRIX.fullmatch(name)
    if match is None or match[2] not in LAYER_MATRICES:
        return None
    return int(match[1]), match[2]


def _column(kind: str) -> str:
    """Return a short name: attention.self.query -> query, attention.output.dense -> ..."""
    return kind.removeprefix("attention.self.").removesuffix(".dense").replace(".", " ")


def _cell(name: str, masks: Sequence[MaskInfo]) -> MatrixCell:
    values = [mask.sparsity_per_matrix[name] for mask in masks]
    collapsed = any(name in mask.collapsed for mask in masks)
    return MatrixCell(sum(values) / len(values), min(values), max(values), collapsed)


def _cost(kind: str, trials: Sequence[Trial], results: Mapping[str, TrialResult]) -> CostRow:
    done = [results[trial.key] for trial in trials if trial.key in results]
    told = {
        phase: [result.seconds[phase] for result in done if phase in result.seconds]
        for phase in PHASES
    }
    return CostRow(
        kind=kind,
        num_trials=len(trials),
        num_finished=len(done),
        num_steps=sum(result.num_steps for result in done),
        num_train_tokens=sum(result.num_train_tokens for result in done),
        seconds={phase: sum(values) if values else None for phase, values in told.items()},
        peak_memory_gib=max((result.peak_memory_gib for result in done), default=None),
    )


def _trial(trial: Trial, result: TrialResult | None, has_failed: bool) -> TrialRow:
    labels = tuple(dict.fromkeys(role.label for role in trial.roles))
    if result is None:
        state = "failed" if has_failed else "not run"
        return TrialRow(trial.key, labels, state, None, {}, None)
    splits = sorted(result.scores, key=lambda split: (split != SELECT, split))
    scores = {split: result.primary(split) for split in splits}
    return TrialRow(trial.key, labels, "result", result.attempt, scores, result.started_at)
