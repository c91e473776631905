"""How a model is fine-tuned: the resolved recipe that is part of a trial's identity."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from search_spaces.canonical import Frozen


class Recipe(Frozen):
    """A fully resolved fine-tuning recipe; every length is in optimizer steps (method rule 6)."""

    train_steps: int = Field(gt=0, description="Optimizer steps that are taken.")
    lr_horizon_steps: int = Field(gt=0, description="Step at which the learning rate reaches 0.")
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear warm-up.")
    batch_size: int = Field(gt=0, description="Examples of one optimizer step over all ranks.")
    learning_rate: float = Field(gt=0, description="Peak learning rate.")
    weight_decay: float = Field(default=0.0, ge=0, description="On matrices and embeddings only.")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, ge=0, description="Clipping norm; 0 = no clipping.")
    hidden_dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    dtype: Literal["fp32", "bf16"] = Field(default="fp32", description="Of compute; masters fp32.")
    sampler: Literal["random", "length-bucketed"] = Field(
        default="random", description="Which examples share a batch; see workers/finetune.py."
    )
    head: Literal["fresh", "carry"] = Field(
        default="fresh", description="Whether a round starts from its parent's trained head."
    )
    rng: Literal["restart", "continue"] = Field(
        default="restart", description="Whether a round continues its parent's random streams."
    )


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Return the factor of the peak learning rate at an optimizer step.

    Linear warm-up, then linear decay to 0 at the horizon, as in Chen et al. 2020
    (``get_linear_schedule_with_warmup``).

    Args:
        step: Number of steps already taken, from 0.
        recipe: The recipe that holds warm-up and horizon.

    Returns:
        A fraction in [0, 1].
    """
    if step < recipe.warmup_steps:
        return step / recipe.warmup_steps
    remaining = recipe.lr_horizon_steps - step
    return max(0.0, remaining / max(1, recipe.lr_horizon_steps - recipe.warmup_steps))
