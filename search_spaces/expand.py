"""Expand a sweep into its trials; equal trials fall together because they share a key."""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.collecting import without_collecting
from search_spaces.errors import Fault, SpecError
from search_spaces.given import Given
from search_spaces.lineages import Lineages
from search_spaces.models import ModelFacts
from search_spaces.sweep import SweepSpec
from search_spaces.task_facts import TaskFacts
from search_spaces.transfers import add_transfers
from search_spaces.trial import Trial
from search_spaces.trial_set import TrialSet


def expand(
    spec: SweepSpec,
    models: Mapping[str, ModelFacts],
    tasks: Mapping[str, TaskFacts],
    given: Given | None = None,
) -> list[Trial]:
    """Return all trials of a sweep, parents before children.

    For each model and task: one dense trial a seed; for each method the rounds that make its
    masks, and at each level a final trial a seed; for each control a trial at each level and
    seed; for each cell of a transfer table a trial a seed. Trials with equal keys are merged:
    their roles and outputs are united.

    Args:
        spec: The sweep.
        models: Facts of its models, by name.
        tasks: Facts of its tasks, by name.
        given: What the sources in ``transfer`` that name a mask refer to, by the source's name.

    Raises:
        SpecError: The schedule does not fit a model's number of prunable weights, a recipe's
            lengths do not fit each other, or masks do not fit the models that they move to.
    """
    trials = TrialSet()
    faults: list[Fault] = []
    for model in spec.models:
        lineages = {
            task.name: Lineages(
                spec,
                model.name,
                task,
                models[model.name],
                tasks[task.name].on(model.name),
                trials,
            )
            for task in spec.tasks
        }
        with without_collecting():
            for one in lineages.values():
                one.add()
        if spec.transfer:
            try:
                add_transfers(spec, model.name, lineages, given or {})
            except SpecError as error:
                faults += error.faults
    if faults:
        raise SpecError(list(dict.fromkeys(faults)))
    return trials.in_order()
