"""Expand a sweep into its trials; equal trials fall together because they share a key."""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.lineages import Lineages
from search_spaces.models import ModelFacts
from search_spaces.sweep import SweepSpec
from search_spaces.task_facts import TaskFacts
from search_spaces.trial import (
    Trial,
)
from search_spaces.trial_set import TrialSet


def expand(
    spec: SweepSpec, models: Mapping[str, ModelFacts], tasks: Mapping[str, TaskFacts]
) -> list[Trial]:
    """Return all trials of a sweep, parents before children.

    For each model and task: one dense trial a seed; for each method the rounds that make its
    masks, and at each level a final trial a seed; for each control a trial at each level and
    seed. Trials with equal keys are merged: their roles and outputs are united.

    Args:
        spec: The sweep.
        models: Facts of its models, by name.
        tasks: Facts of its tasks, by name.

    Raises:
        SpecError: The schedule does not fit a model's number of prunable weights, or a recipe's
            lengths do not fit each other.
    """
    trials = TrialSet()
    for model in spec.models:
        for task in spec.tasks:
            facts = tasks[task.name].on(model.name)
            seen = models[model.name].under(spec.pooler, facts.identity.problem)
            Lineages(spec, model.name, task, seen, facts, trials).add()
    return trials.in_order()
