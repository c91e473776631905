"""Sparsity schedules and the exact number of weights that each round leaves removed (rule 8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from search_spaces.canonical import Frozen
from search_spaces.errors import Fault, SpecError

NEAR = 0.0005  # a level as people type it is the level that prints like it


class LinearSchedule(Frozen):
    """Every round removes the same share of the *original* weights."""

    kind: Literal["linear"] = "linear"
    step: float = Field(gt=0, lt=1, description="Share of all prunable weights, each round.")
    rounds: int = Field(ge=1, description="Number of prunes.")
    rounding: Literal["exact", "torch"] = Field(
        default="exact", description="'torch' repeats torch.nn.utils.prune, round by round."
    )

    @model_validator(mode="after")
    def _leaves_weights(self) -> LinearSchedule:
        if Fraction(str(self.step)) * self.rounds >= 1:
            raise ValueError(
                f"{self.rounds} rounds of {self.step} remove everything, "
                "but step x rounds must be < 1"
            )
        return self


class GeometricSchedule(Frozen):
    """Every round removes the same share of the weights that *remain*."""

    kind: Literal["geometric"] = "geometric"
    rate: float = Field(gt=0, lt=1, description="Share of the remaining weights, each round.")
    rounds: int = Field(ge=1, description="Number of prunes.")
    rounding: Literal["exact"] = "exact"


class LevelsSchedule(Frozen):
    """Sparsities written out one by one."""

    kind: Literal["levels"] = "levels"
    levels: tuple[float, ...] = Field(min_length=1, description="Sparsities, increasing.")
    rounding: Literal["exact"] = "exact"

    @field_validator("levels")
    @classmethod
    def _increasing(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < level < 1 for level in levels):
            raise ValueError(f"is {list(levels)}, but every level must lie between 0 and 1")
        if any(low >= high for low, high in pairwise(levels)):
            raise ValueError(f"is {list(levels)}, but levels must be strictly increasing")
        return levels


Schedule = Annotated[
    LinearSchedule | GeometricSchedule | LevelsSchedule, Field(discriminator="kind")
]


def removed_counts(
    schedule: LinearSchedule | GeometricSchedule | LevelsSchedule, num_prunable: int
) -> tuple[int, ...]:
    """Return K_1 .. K_R, the weights removed in all after each prune.

    Args:
        schedule: The schedule.
        num_prunable: N, the number of prunable weights.

    Returns:
        Strictly increasing counts, each at least 1 and below ``num_prunable``.

    Raises:
        SpecError: N is so small that two counts coincide, one is 0, or nothing remains.
    """
    if isinstance(schedule, LinearSchedule) and schedule.rounding == "torch":
        counts = _torch_counts(schedule, num_prunable)
    else:
        counts = _exact_counts(schedule, num_prunable)
    _check(schedule, counts, num_prunable)
    return counts


def _exact_counts(
    schedule: LinearSchedule | GeometricSchedule | LevelsSchedule, num: int
) -> tuple[int, ...]:
    """Round once from N, in rational arithmetic: ``round`` of a Fraction is half-to-even."""
    if isinstance(schedule, LevelsSchedule):
        return tuple(round(num * Fraction(str(level))) for level in schedule.levels)
    rounds = range(1, schedule.rounds + 1)
    if isinstance(schedule, LinearSchedule):
        return tuple(round(num * index * Fraction(str(schedule.step))) for index in rounds)
    kept = 1 - Fraction(str(schedule.rate))
    return tuple(num - round(num * kept**index) for index in rounds)


def _torch_counts(schedule: LinearSchedule, num_prunable: int) -> tuple[int, ...]:
    """Repeat ``global_unstructured(amount=1/(10 - k))``: a float share of what remains, rounded."""
    counts, removed = [], 0
    for index in range(schedule.rounds):
        amount = 1 / (1 / schedule.step - index)
        removed += round(amount * (num_prunable - removed))
        counts.append(removed)
    return tuple(counts)


def _check(
    schedule: LinearSchedule | GeometricSchedule | LevelsSchedule,
    counts: tuple[int, ...],
    num_prunable: int,
) -> None:
    if isinstance(schedule, LevelsSchedule):
        if faults := list(_level_faults(schedule.levels, counts, num_prunable)):
            raise SpecError(faults)
        return
    if counts[-1] >= num_prunable:
        problem = f"removes all {num_prunable} prunable weights at round {len(counts)}"
        raise SpecError([Fault("schedule", "", f"{problem}.", "Use fewer rounds.")])
    if counts[0] < 1 or any(low >= high for low, high in pairwise(counts)):
        problem = f"gives the counts {list(counts)} for {num_prunable} prunable weights"
        hint = "Every round must remove at least one weight more: use larger steps."
        raise SpecError([Fault("schedule", "", f"{problem}.", hint)])


def _level_faults(
    levels: tuple[float, ...], counts: tuple[int, ...], num_prunable: int
) -> Iterator[Fault]:
    for index, (level, count) in enumerate(zip(levels, counts, strict=True)):
        problem, hint = "", "Leave one of the two out."
        if not 0 < count < num_prunable:
            which, other = ("none", "larger") if count < 1 else ("all", "smaller")
            problem, hint = f"removes {which} of {num_prunable} weights", f"Use a {other} level."
        elif index and count == counts[index - 1]:
            problem = f"removes {count} of {num_prunable} weights, as {levels[index - 1]} does"
        if problem:
            yield Fault("schedule", f"levels[{index}]", f"is {level}, but {problem}.", hint)


def levels_at(counts: Sequence[int], num_prunable: int, sparsity: float) -> list[int]:
    """Return the places of the levels that a sparsity as people type it may mean.

    Args:
        counts: Weights removed at each level, increasing.
        num_prunable: N.
        sparsity: To the weight, or rounded to three digits or more.

    Returns:
        The level that it is to the weight; else all levels within ``NEAR``.
    """
    wanted = sparsity * num_prunable
    nearest = min(range(len(counts)), key=lambda place: abs(counts[place] - wanted))
    if abs(counts[nearest] - wanted) <= 1:
        return [nearest]
    return [
        place for place, count in enumerate(counts) if abs(count / num_prunable - sparsity) <= NEAR
    ]


def level_text(counts: Sequence[int], num_prunable: int, place: int) -> str:
    """Return a level with the fewest digits, at least three, that name it and no other."""
    level = counts[place] / num_prunable
    texts = (f"{level:.{digits}g}" for digits in range(3, 17))
    meant = (text for text in texts if levels_at(counts, num_prunable, float(text)) == [place])
    return next(meant, repr(level))
