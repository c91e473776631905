"""Which version of the trainer makes a trial's result: a part of its key."""

from __future__ import annotations

from search_spaces.heads import WORD_HEADS, word_head_prefix
from search_spaces.recipes import Recipe
from search_spaces.trial import (
    TRAINING_CODE_VERSION,
    ModelIdentity,
    OtherStart,
    SavedWeights,
    TaskIdentity,
)

_CORRECTED = 3  # of the trials that the corrections below change, and of no others


def code_version(
    model: ModelIdentity,
    task: TaskIdentity,
    recipe: Recipe,
    start: OtherStart | SavedWeights | None = None,
    base: int = TRAINING_CODE_VERSION,
) -> int:
    """Return the version of the trainer that stands in a trial's key.

    A correction that changes the results of a few kinds of trials raises the version of those
    alone: all others are bit-equal before and after, and what is stored of them stays in use. What
    descends from such a trial differs by its parent's key already.

    Args:
        model: What is trained.
        task: On what.
        recipe: How.
        start: Where the trial starts; None = theta_0.
        base: The version of all trials that no correction concerns.
    """
    is_corrected = (
        _has_answers(task) or _shuffles_layers(start) or _decayed_a_scale(model, task, recipe)
    )
    return max(base, _CORRECTED) if is_corrected else base


def _has_answers(task: TaskIdentity) -> bool:
    """Where SQuAD's windows overlap, other starts may win than before."""
    return task.problem == "span"


def _shuffles_layers(start: OtherStart | SavedWeights | None) -> bool:
    """An order that leaves every layer in its place is drawn again."""
    return start is not None and start.kind == "layer-shuffle"


def _decayed_a_scale(model: ModelIdentity, task: TaskIdentity, recipe: Recipe) -> bool:
    """A word head's scale no longer decays where it is called ``layer_norm``, as RoBERTa's is."""
    if task.problem != "masked-lm" or not recipe.weight_decay:
        return False
    prefix = word_head_prefix(model.family)
    return prefix is not None and "layer_norm.weight" in WORD_HEADS[prefix]
