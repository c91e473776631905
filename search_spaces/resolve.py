"""Look at the files that a sweep names, and turn its tasks and models into identities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from search_spaces.canonical import content_key
from search_spaces.contracts import TaskPlace
from search_spaces.datafiles import TaskData, data_sha256, read_task
from search_spaces.errors import Fault, SpecError
from search_spaces.examples import Examples
from search_spaces.models import FAMILIES, ModelFacts, max_tokens, num_layers_of, resolve_model
from search_spaces.places import absolute
from search_spaces.splits import TASK, AnySelectRule, ReportSelect, make_splits
from search_spaces.sweep import SweepSpec
from search_spaces.task_facts import TaskFacts as TaskFacts  # known from here too
from search_spaces.task_specs import TaskSpec
from search_spaces.tasks import (
    FilesSource,
    GlueFolderSource,
    GlueHubSource,
    LabelledSource,
    has_pairs,
    primary_metric,
    problem_of,
)
from search_spaces.token_sources import TokenSource
from search_spaces.token_tasks import resolve_token_task
from search_spaces.trial import TaskIdentity

Named = TypeVar("Named")
Facts = TypeVar("Facts")


def resolve_sweep(spec: SweepSpec) -> tuple[dict[str, ModelFacts], dict[str, TaskFacts]]:
    """Return the facts of all models and tasks of a sweep, by their names.

    Raises:
        SpecError: All faults of all models and tasks.
    """
    faults: list[Fault] = []
    models = _gather(spec.models, lambda model: model.name, resolve_model, faults)
    tasks = _gather(
        [task for task in spec.tasks if models or not isinstance(task.source, TokenSource)],
        lambda task: task.name,
        lambda task: resolve_task(task, spec.select_rule_of(task), models),
        faults,
    )
    faults += [
        fault
        for task in spec.tasks
        for model in spec.models
        if model.name in models
        for fault in _length_faults(task, model.name, models[model.name].config)
    ]
    if "layer-shuffle" in spec.controls:
        faults += [f for name in models for f in _layer_faults(name, models[name].config)]
    if faults:
        raise SpecError(list(dict.fromkeys(faults)))  # a hub out of reach is one for all of them
    return models, tasks


def _length_faults(task: TaskSpec, model: str, config: Mapping[str, Any]) -> list[Fault]:
    """Return what is wrong with a task's length on a model: too long, or no room for pairs."""
    place, largest = f"task '{task.name}'", max_tokens(config)
    num_specials = FAMILIES[config["model_type"]].num_pair_specials
    if task.max_length > largest:
        problem = f"is {task.max_length}, but model '{model}' has positions for {largest} tokens."
        hint = f"Write max_length: {largest} or less."
        return [Fault(place, "max_length", problem, hint)]
    smallest = num_specials + 2
    if has_pairs(task.source) and task.max_length < smallest:
        problem = (
            f"is {task.max_length}, but pairs need at least {smallest} on model '{model}': "
            f"{num_specials} special tokens and one of each text."
        )
        return [Fault(place, "max_length", problem, f"Write max_length: {smallest} or more.")]
    return []


def _layer_faults(model: str, config: Mapping[str, Any]) -> list[Fault]:
    """Return what is wrong with shuffling a model's layers: one has no other order."""
    if num_layers_of(config) > 1:
        return []
    problem = f"has layer-shuffle, but model '{model}' has 1 layer; it needs 2 or more."
    return [Fault("sweep", "controls", problem, "Leave out layer-shuffle, or the model.")]


def _gather(
    items: Iterable[Named],
    name: Callable[[Named], str],
    resolve: Callable[[Named], Facts],
    faults: list[Fault],
) -> dict[str, Facts]:
    found = {}
    for item in items:
        try:
            found[name(item)] = resolve(item)
        except SpecError as error:
            for fault in error.faults:
                is_task = fault.place == TASK
                place = f"task '{name(item)}'" if is_task else fault.place
                faults.append(replace(fault, place=place))
    return found


def resolve_task(
    task: TaskSpec, select: AnySelectRule, models: Mapping[str, ModelFacts] | None = None
) -> TaskFacts:
    """Read a task's data and name it by content.

    Args:
        task: The task as the sweep names it.
        select: How its select split is held out (``SweepSpec.select_rule_of``).
        models: The sweep's models by name; only tasks made of their tokens need them.

    Raises:
        SpecError: All faults of the task's data, or too few examples.
    """
    if isinstance(task.source, TokenSource):
        return resolve_token_task(task, select, models or {})
    data = read_task(task.source)
    num_labels = _num_labels(task, data)
    train, held_out = make_splits(data.splits["train"], select, task.train_examples)
    chosen = data.splits[select.split] if isinstance(select, ReportSelect) else held_out
    identity = TaskIdentity(
        problem=problem_of(task.source),
        num_labels=num_labels,
        metric=primary_metric(task.source),
        data_sha256=data_sha256(task.source),
        select_sha256=content_key(select),
        num_train_examples=len(train),
        max_length=task.max_length,
    )
    source = _with_absolute_paths(task.source).model_dump(mode="json")
    return TaskFacts(
        identity=identity,
        place=TaskPlace(name=task.name, source=source, select=select.model_dump(mode="json")),
        num_train=len(train),
        num_select=len(chosen),
        num_report=sum(len(rows) for name, rows in data.splits.items() if name != "train"),
        mean_chars=_mean_chars(data.splits["train"]),
    )


def _num_labels(task: TaskSpec, data: TaskData) -> int:
    if problem_of(task.source) == "regression":
        return 1
    if len(data.labels) < 2:
        problem = f"has only the label {list(data.labels)}, but a classification needs two."
        raise SpecError([Fault(f"task '{task.name}'", "source", problem, "Check option label.")])
    if primary_metric(task.source) == "f1" and len(data.labels) != 2:
        problem = f"is f1, which is for 2 labels, but the task has {len(data.labels)}."
        hint = "Write metric: accuracy or matthews."
        raise SpecError([Fault(f"task '{task.name}'", "source.metric", problem, hint)])
    return len(data.labels)


def _mean_chars(examples: Examples) -> float:
    total = sum(map(len, examples.texts)) + sum(map(len, examples.pairs or []))
    return total / len(examples)


def _with_absolute_paths(source: LabelledSource) -> LabelledSource:
    """Make paths independent of the current folder: a worker has another one."""
    changes: dict[str, Any] = {}
    if isinstance(source, FilesSource):
        changes = {"train": absolute(source.train), "report": absolute(source.report)}
    elif isinstance(source, GlueFolderSource | GlueHubSource) and source.path:
        changes = {"path": absolute(source.path)}
    return source.model_copy(update=changes)
