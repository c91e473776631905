"""What a search does between rounds: where survivors are rewound to, and what is pruned first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, model_validator

from search_spaces.canonical import Frozen
from search_spaces.errors import Fault, SpecError
from search_spaces.recipes import Recipe

FirstPrune = Literal["trained", "untrained", "untrained-masked-lm"]


class RewindSpec(Frozen):
    """Where the survivors' weights return to after a prune (method rules 5 and 6)."""

    kind: Literal["theta0", "late", "none"] = Field(
        default="theta0",
        description="late: to a step of the seed's dense run; none: trained weights go on.",
    )
    step: int | None = Field(default=None, gt=0, description="late: the step.")
    epochs: float | None = Field(default=None, gt=0, description="late: instead of the step.")
    finals: Literal["same", "theta0"] = Field(
        default="same", description="theta0: only rounds go on; tickets are judged at theta_0."
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """``theta0`` stands for ``{kind: theta0}``, ``{step: 100}`` for a late one."""
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, Mapping) and "kind" not in value and {"step", "epochs"} & set(value):
            return {"kind": "late", **value}
        return value

    @model_validator(mode="after")
    def _late_has_one_place(self) -> RewindSpec:
        num_given = sum(place is not None for place in (self.step, self.epochs))
        if self.kind == "late" and num_given != 1:
            given = "both" if num_given else "neither"
            raise ValueError(f"is late and has {given} step and epochs: write one of them")
        if self.kind != "late" and num_given:
            raise ValueError(f"is {self.kind}, which takes no step: write kind: late")
        return self

    def step_of(self, recipe: Recipe, num_train_examples: int, place: str) -> int:
        """Return the step of a recipe that late rewinding goes back to.

        Args:
            recipe: Of the dense run that is rewound to.
            num_train_examples: Examples of one epoch.
            place: What faults are shown under, for example ``task 'rte'``.

        Raises:
            SpecError: The recipe is over by then.
        """
        assert self.kind == "late", "nothing else has a step"
        steps_per_epoch = math.ceil(num_train_examples / recipe.batch_size)
        step = self.step or math.ceil(Fraction(str(self.epochs)) * steps_per_epoch)
        if step >= recipe.train_steps:
            problem = (
                f"resolves to step {step}, but must lie before the end of the training, "
                f"{recipe.train_steps} steps."
            )
            raise SpecError([Fault(place, "rewind", problem, "Rewind to an earlier step.")])
        return step
