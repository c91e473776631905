"""Recipes as a user writes them, and how they resolve to optimizer steps (method rule 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, model_validator

from search_spaces.canonical import Frozen
from search_spaces.errors import Fault, SpecError
from search_spaces.recipes import Recipe

# At most one member of each group may be written; a later layer's choice replaces an earlier one.
EXCLUSIVE_GROUPS = (
    ("epochs", "train_steps"),
    ("lr_horizon_epochs", "lr_horizon_steps"),
    ("warmup_fraction", "warmup_steps"),
)


class RecipeSpec(Frozen):
    """A fine-tuning recipe as written in a sweep; lengths may be given in epochs."""

    epochs: float | None = Field(default=None, gt=0, description="Passes over the train split.")
    train_steps: int | None = Field(default=None, gt=0, description="Instead of epochs.")
    batch_size: int = Field(default=32, gt=0, description="Over all ranks.")
    learning_rate: float = Field(gt=0, description="Peak learning rate.")
    warmup_fraction: float | None = Field(default=None, ge=0, lt=1, description="Of the horizon.")
    warmup_steps: int | None = Field(default=None, ge=0, description="Instead of the fraction.")
    lr_horizon_epochs: float | None = Field(
        default=None, gt=0, description="Where the learning rate reaches 0; default: the end."
    )
    lr_horizon_steps: int | None = Field(default=None, gt=0, description="Instead of epochs.")
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, ge=0, description="0 = no clipping.")
    hidden_dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    dtype: Literal["fp32", "bf16"] = "fp32"
    sampler: Literal["random", "length-bucketed"] = Field(
        default="random",
        description="length-bucketed: batches of similar lengths; faster, but other batches.",
    )

    @model_validator(mode="after")
    def _lengths(self) -> RecipeSpec:
        for first, second in EXCLUSIVE_GROUPS:
            if getattr(self, first) is not None and getattr(self, second) is not None:
                raise ValueError(f"has both {first} and {second}, but only one may be written")
        if self.epochs is None and self.train_steps is None:
            raise ValueError("has neither epochs nor train_steps: write one of them")
        for length, horizon in (
            (self.epochs, self.lr_horizon_epochs),
            (self.train_steps, self.lr_horizon_steps),
        ):
            if length is not None and horizon is not None and horizon < length:
                raise ValueError(
                    f"trains for {length:g}, but its learning rate is 0 from {horizon:g} on: "
                    "the horizon must not be shorter than the training"
                )
        return self


class SearchRecipeSpec(RecipeSpec):
    """The recipe of pruning rounds; says also what a round inherits from the one before."""

    head: Literal["fresh", "carry"] = "fresh"
    rng: Literal["restart", "continue"] = "restart"

    @property
    def carries(self) -> bool:
        """Whether a round takes over more than a mask."""
        return self.head == "carry" or self.rng == "continue"


def merge_recipes(base: Any, over: Any) -> Any:
    """Return ``base`` with the fields of ``over`` on top, both as plain data.

    A field of an exclusive group (``train_steps``) removes its rival (``epochs``) from the base.
    Anything that is no mapping is returned as it is, for validation to complain about.
    """
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    merged = dict(base)
    for group in EXCLUSIVE_GROUPS:
        if any(over.get(name) is not None for name in group):
            for name in group:
                merged.pop(name, None)
    return {**merged, **over}


def resolve_recipe(
    spec: RecipeSpec,
    num_train_examples: int,
    *,
    inherits: bool = False,
    place: str = "recipe",
    field: str = "recipe",
) -> Recipe:
    """Return a recipe whose lengths are optimizer steps.

    Args:
        spec: The recipe as written.
        num_train_examples: Examples of one epoch; the last partial batch is a step too.
        inherits: Whether the trial has a round before it; only then do ``head`` and ``rng``
            apply, so that round 0 is the same trial under every protocol.
        place: What faults are shown under, for example ``task 'rte'``.
        field: The recipe's own field.

    Raises:
        SpecError: Some steps would have a learning rate of 0: the horizon is shorter than the
            training, or warm-up is not. Mixed units show this only here.
    """
    steps_per_epoch = math.ceil(num_train_examples / spec.batch_size)
    train = _steps(spec.train_steps, spec.epochs, steps_per_epoch)
    assert train is not None, "RecipeSpec requires one of the two"
    horizon = _steps(spec.lr_horizon_steps, spec.lr_horizon_epochs, steps_per_epoch) or train
    fraction = Fraction(str(spec.warmup_fraction or 0))
    warmup = spec.warmup_steps if spec.warmup_steps is not None else math.ceil(horizon * fraction)
    _check_lengths(train, horizon, warmup, place, field)
    shared = {name: getattr(spec, name) for name in RecipeSpec.model_fields}
    inherited = {}
    if inherits and isinstance(spec, SearchRecipeSpec):
        inherited = {"head": spec.head, "rng": spec.rng}
    known = {name: value for name, value in shared.items() if name in Recipe.model_fields}
    lengths = {"train_steps": train, "lr_horizon_steps": horizon, "warmup_steps": warmup}
    return Recipe(**{**known, **lengths, **inherited})


def _steps(steps: int | None, epochs: float | None, steps_per_epoch: int) -> int | None:
    if steps is not None or epochs is None:
        return steps
    return math.ceil(Fraction(str(epochs)) * steps_per_epoch)


def _check_lengths(train: int, horizon: int, warmup: int, place: str, field: str) -> None:
    faults = []
    if train > horizon:
        problem = (
            f"resolves to {horizon} steps, but must be at least the {train} steps of the "
            "training: the learning rate is 0 from there on."
        )
        hint = "Lengthen the horizon, or leave it out."
        faults.append(Fault(place, f"{field}.lr_horizon_steps", problem, hint))
    if warmup >= train:
        problem = (
            f"resolves to {warmup} steps, but must be fewer than the {train} steps of the training."
        )
        hint = "Shorten the warm-up, or train for longer."
        faults.append(Fault(place, f"{field}.warmup_steps", problem, hint))
    if faults:
        raise SpecError(faults)
