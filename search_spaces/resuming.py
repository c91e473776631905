"""When a trial's training is written down, so that another attempt can go on from there."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from search_spaces.canonical import Frozen


class CheckpointsSpec(Frozen):
    """Checkpoints of trials that train for long; how a trial is run, and no part of its key.

    A trial that goes on from one ends with the bits of an undisturbed one, within one numerics
    class (method rule 22); elsewhere it starts from its beginning, and says so.
    """

    when: Literal["auto", "always", "never"] = Field(
        default="auto", description="auto: only for trials that train longer than min_train_s."
    )
    every_s: float = Field(default=600, gt=0, description="Between two checkpoints of a trial.")
    min_train_s: float = Field(default=900, ge=0, description="As measured in the trial itself.")


class CheckpointPlan(Frozen):
    """Where the checkpoints of a trial lie, and when they are written."""

    uri: str = Field(description="Folder in the store that all attempts of the trial share.")
    rules: CheckpointsSpec = CheckpointsSpec()


def beginning_of(resumed_at_step: int, restart_reason: str) -> str:
    """Return how an attempt began, for people; "" where it did as any other does."""
    if resumed_at_step:
        return f"training went on from the checkpoint after step {resumed_at_step}"
    return f"training began anew: {restart_reason}" if restart_reason else ""
