"""Two tickets side by side: paired scores and masks, as plain data.

A difference is always first - second, seed by seed; scores are oriented so that higher is better.
This is no verdict: it uses the seeds that both sides have and names the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.judging import REPORT, SELECT
from orchestrator.statistics import (
    MAX_SIGN_FLIP,
    MIN_BOOTSTRAP,
    MIN_SIGN_FLIP,
    MIN_T_INTERVAL,
    bootstrap_interval,
    mean,
    sign_flip_pvalue,
    t_interval,
)
from search_spaces.canonical import short
from search_spaces.contracts import MaskInfo, TrialResult
from search_spaces.errors import UserError
from search_spaces.trial import TrialSpec

BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Side:
    """Trials that differ in nothing but the seed.

    Attributes:
        name: For people.
        specs: The trial of each seed.
        results: Of the seeds that have one.
    """

    name: str
    specs: Mapping[int, TrialSpec]
    results: Mapping[int, TrialResult]

    @property
    def spec(self) -> TrialSpec:
        """Any one of the trials: they share model, task and data."""
        return next(iter(self.specs.values()))


@dataclass(frozen=True)
class PairedScores:
    """The scores of one split, paired on the seed.

    Attributes:
        split: ``select`` or ``report``.
        metric: The primary metric.
        first: Score by seed, of the paired seeds.
        second: The same of the other side.
        differences: First - second by seed.
        mean: Of the differences.
        interval: Two-sided 95% t interval of that mean, from 3 seeds.
        sign_flip_pvalue: Exact and two-sided, of "neither is better", from 6 seeds.
        bootstrap: 95% percentile bootstrap interval of the mean, from 10 seeds.
        unpaired: Why a seed is left out, by seed.
    """

    split: str
    metric: str
    first: Mapping[int, float]
    second: Mapping[int, float]
    differences: Mapping[int, float]
    mean: float
    interval: tuple[float, float] | None
    sign_flip_pvalue: float | None
    bootstrap: tuple[float, float] | None
    unpaired: Mapping[int, str]


@dataclass(frozen=True)
class MaskOverlap:
    """How far two masks keep the same weights.

    Attributes:
        overlap: Kept by both / kept by either: intersection over union, the Jaccard index.
        by_chance: What two random masks with as many weights overlap by.
        at_most: What nested masks with as many weights overlap by.
    """

    overlap: float
    by_chance: float
    at_most: float


@dataclass(frozen=True)
class MatrixPair:
    """One matrix under both masks: mean sparsities over the paired seeds, and first - second."""

    name: str
    first: float
    second: float
    difference: float


def refuse_unlike(first: Side, second: Side) -> None:
    """Raise a UserError where the scores of two sides cannot be compared, with every reason."""
    one, other = first.spec, second.spec
    pairs = {
        "models (theta_0)": (one.model.theta0_sha256, other.model.theta0_sha256),
        "prunable sets": (one.model.prunable_sha256, other.model.prunable_sha256),
        "metrics": (one.task.metric, other.task.metric),
        "data": (one.task.data_sha256, other.task.data_sha256),
        "rules that hold out select": (one.task.select_sha256, other.task.select_sha256),
    }
    unlike = [
        f"{what}: {short(left)} against {short(right)}"
        for what, (left, right) in pairs.items()
        if left != right
    ]
    if unlike:
        raise UserError(
            f"{first.name} and {second.name} have different {'; different '.join(unlike)}. "
            "Scores compare only where these are equal. Masks of one model compare with: "
            "tickets mask compare."
        )


def pair_scores(first: Side, second: Side) -> list[PairedScores]:
    """Return the paired scores on select and report, as far as both sides have them.

    Raises:
        UserError: No seed has a score on both sides.
    """
    found = [
        paired
        for split in (SELECT, REPORT)
        if (paired := _paired(split, first, second)) is not None
    ]
    if not found:
        raise UserError(
            f"{first.name} and {second.name} have no seed with a result on both sides: "
            f"{_seeds(first)} against {_seeds(second)}. Scores pair on the seed: run what is "
            "missing with tickets run SWEEP, or name trials of one seed."
        )
    return found


def compare_counts(
    first_kept: int, second_kept: int, num_common: int, num_weights: int
) -> MaskOverlap:
    """Return how far two masks overlap, and between what limits that is to be read.

    Args:
        first_kept: Weights that the first mask keeps.
        second_kept: Weights that the second one keeps.
        num_common: Weights that both keep.
        num_weights: N.
    """
    by_chance = first_kept * second_kept / num_weights  # the mean of the hypergeometric law
    fewest, most = sorted((first_kept, second_kept))
    total = first_kept + second_kept
    return MaskOverlap(
        overlap=num_common / (total - num_common) if total else 1.0,
        by_chance=by_chance / (total - by_chance) if total else 1.0,
        at_most=fewest / most if most else 1.0,
    )


def matrix_pairs(first: Mapping[int, MaskInfo], second: Mapping[int, MaskInfo]) -> list[MatrixPair]:
    """Return every matrix's sparsity on both sides, the largest difference first.

    Args:
        first: Masks by seed.
        second: Masks of the same model by seed; seeds that one side lacks are left out.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return []
    pairs = []
    for name in first[seeds[0]].sparsity_per_matrix:
        ours, theirs = (
            mean([side[seed].sparsity_per_matrix[name] for seed in seeds])
            for side in (first, second)
        )
        pairs.append(MatrixPair(name, ours, theirs, ours - theirs))
    return sorted(pairs, key=lambda pair: -abs(pair.difference))


def masks_of(side: Side) -> dict[int, MaskInfo]:
    """Return what a side's results tell of their masks, by seed."""
    found = {seed: result.input_mask for seed, result in side.results.items()}
    return {seed: mask for seed, mask in found.items() if mask is not None}


def _paired(split: str, first: Side, second: Side) -> PairedScores | None:
    ours, theirs = _scores(first, split), _scores(second, split)
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    differences = {seed: ours[seed] - theirs[seed] for seed in seeds}
    values = list(differences.values())
    num = len(values)
    return PairedScores(
        split=split,
        metric=first.spec.task.metric,
        first={seed: ours[seed] for seed in seeds},
        second={seed: theirs[seed] for seed in seeds},
        differences=differences,
        mean=mean(values),
        interval=t_interval(values) if num >= MIN_T_INTERVAL else None,
        sign_flip_pvalue=_two_sided(values) if MIN_SIGN_FLIP <= num <= MAX_SIGN_FLIP else None,
        bootstrap=bootstrap_interval(values, BOOTSTRAP_SEED) if num >= MIN_BOOTSTRAP else None,
        unpaired=_unpaired(first, second, split, set(seeds)),
    )


def _two_sided(differences: list[float]) -> float:
    """Return the two-sided p-value; sign patterns are symmetric, so it is twice the lesser one."""
    sign = 1 if mean(differences) >= 0 else -1
    return min(1.0, 2 * sign_flip_pvalue([sign * one for one in differences]))


def _scores(side: Side, split: str) -> dict[int, float]:
    results = side.results.items()
    return {seed: result.primary(split) for seed, result in results if split in result.scores}


def _unpaired(first: Side, second: Side, split: str, paired: set[int]) -> dict[int, str]:
    return {
        seed: "; ".join(
            f"{side.name} has {lack}"
            for side in (first, second)
            if (lack := _lack(side, split, seed)) is not None
        )
        for seed in sorted((first.specs.keys() | second.specs.keys()) - paired)
    }


def _lack(side: Side, split: str, seed: int) -> str | None:
    if seed not in side.specs:
        return "no such seed"
    if seed not in side.results:
        return "no result"
    return None if split in side.results[seed].scores else f"no score on {split}"


def _seeds(side: Side) -> str:
    told = [
        f"{seed}{'' if seed in side.results else ' (no result)'}" for seed in sorted(side.specs)
    ]
    return f"seeds {', '.join(told)}"
