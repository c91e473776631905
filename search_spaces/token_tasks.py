"""Name tasks that are made of tokens by content: how many examples they have on each model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from search_spaces.canonical import content_key
from search_spaces.contracts import TaskPlace
from search_spaces.datafiles import data_sha256
from search_spaces.errors import Fault, SpecError
from search_spaces.heads import word_head_prefix, word_head_sha256
from search_spaces.inputs import local_path
from search_spaces.models import ModelFacts
from search_spaces.places import absolute, cache_folder
from search_spaces.splits import AnySelectRule
from search_spaces.task_facts import TaskFacts
from search_spaces.task_specs import TaskSpec
from search_spaces.tasks import primary_metric, problem_of
from search_spaces.token_data import block_splits, question_splits
from search_spaces.token_sources import (
    AnswersSource,
    SquadSource,
    TextSource,
    TokenSource,
    WordsSource,
)
from search_spaces.trial import TaskIdentity
from search_spaces.windows import check_room, make_windows
from search_spaces.word_pieces import word_pieces

_SAMPLE = 100  # blocks whose characters are counted, for all
COUNTS_VERSION = 1  # raise when texts are cut in another way


@dataclass(frozen=True)
class Counts:
    """How many examples a task has on a model.

    Attributes:
        num_units: Blocks, or questions, that are trained on.
        num_train: Blocks, or windows, that are trained on: what an epoch is made of.
        num_select: Blocks, or questions, that decisions are made on.
        num_report: Blocks, or questions, that results are reported on.
        mean_chars: Mean characters of a training example.
    """

    num_units: int
    num_train: int
    num_select: int
    num_report: int
    mean_chars: float


def resolve_token_task(
    task: TaskSpec, select: AnySelectRule, models: Mapping[str, ModelFacts]
) -> TaskFacts:
    """Read a task's data and cut them into tokens on each model; counts are kept in the cache.

    Args:
        task: The task as the sweep names it.
        select: How its select split is held out.
        models: Facts of the sweep's models, by name; at least one.

    Raises:
        SpecError: All faults of the task's data, or of the models with it.
    """
    assert isinstance(task.source, TokenSource)
    sha256 = data_sha256(task.source)
    faults: list[Fault] = []
    by_model: dict[str, TaskFacts] = {}
    for name, model in models.items():
        try:
            _check_fits(task, name, model)
            by_model[name] = _facts(task, select, model, sha256)
        except SpecError as error:
            faults += error.faults
    if faults:
        raise SpecError(list(dict.fromkeys(faults)))  # models share the data's faults
    return replace(next(iter(by_model.values())), by_model=by_model)


def _facts(task: TaskSpec, select: AnySelectRule, model: ModelFacts, sha256: str) -> TaskFacts:
    counts = _counts(task, select, model, sha256)
    folder, source = local_path(model.place.folder), task.source
    is_words = isinstance(source, WordsSource)
    identity = TaskIdentity(
        problem=problem_of(source),
        num_labels=1 if is_words else 2,
        metric=primary_metric(source),
        data_sha256=sha256,
        select_sha256=content_key(select),
        num_train_examples=counts.num_units,
        max_length=task.max_length,
        head_sha256=word_head_sha256(folder, model.identity.family) if is_words else "",
    )
    if isinstance(source, TextSource | SquadSource):
        changes = {"train": absolute(source.train), "report": absolute(source.report)}
        source = source.model_copy(update=changes)
    place = TaskPlace(
        name=task.name,
        source=source.model_dump(mode="json"),
        select=select.model_dump(mode="json"),
    )
    num = counts.num_train, counts.num_select, counts.num_report
    return TaskFacts(identity, place, *num, counts.mean_chars)


def _check_fits(task: TaskSpec, name: str, model: ModelFacts) -> None:
    """Refuse a model that the task's head does not fit."""
    place, family = f"model '{name}'", model.identity.family
    pieces = word_pieces(local_path(model.place.folder))
    if isinstance(task.source, AnswersSource):
        check_room(task.source, pieces, task.max_length, f"task '{task.name}'")
        return
    hint = f"Take the task '{task.name}' or the model out of this sweep."
    if word_head_prefix(family) is None:
        problem = f"is of the family {family}, which was not pre-trained to guess hidden words."
        raise SpecError([Fault(place, "source", problem, hint)])
    if not model.config.get("tie_word_embeddings", True):
        problem = "has tie_word_embeddings false, but words are guessed by the word embedding."
        raise SpecError([Fault(place, "source", problem, hint)])
    num_rows = model.config.get("vocab_size", 30522)
    if pieces.num_words > num_rows:
        problem = f"has a tokenizer of {pieces.num_words} tokens, but embeds only {num_rows}."
        hint = "Copy tokenizer and weights of one model."
        raise SpecError([Fault(place, "source", problem, hint)])
    if pieces.mask_id is None:
        problem = "has a tokenizer without a mask token, which hides the words to be guessed."
        raise SpecError([Fault(place, "source", problem, hint)])


def _counts(task: TaskSpec, select: AnySelectRule, model: ModelFacts, sha256: str) -> Counts:
    """Return the counts of a task on a model, from the cache if they are there."""
    names = ["counts", COUNTS_VERSION, version("tokenizers"), model.identity.tokenizer_sha256]
    settings = [sha256, content_key(select), task.train_examples, task.max_length]
    path = cache_folder() / "counts" / f"{content_key([*names, *settings])}.json"
    try:
        return Counts(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):  # not there, or not whole
        pass
    counts = _counted(task, select, local_path(model.place.folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(asdict(counts)))
    os.replace(partial, path)
    return counts


def _counted(task: TaskSpec, select: AnySelectRule, folder: Path) -> Counts:
    source, pieces = task.source, word_pieces(folder)
    if isinstance(source, WordsSource):
        blocks = block_splits(source, select, task.train_examples, pieces, task.max_length)
        num = {name: len(split) for name, split in blocks.items()}
        some = pieces.tokenizer.decode_batch(blocks["train"][:_SAMPLE].tolist())
        chars = sum(map(len, some)) / len(some)
        return Counts(num["train"], num["train"], num["select"], num["report"], chars)
    assert isinstance(source, AnswersSource)
    questions = question_splits(source, select, task.train_examples)
    num = {name: len(split) for name, split in questions.items()}
    windows = make_windows(questions["train"], pieces, task.max_length, source)
    chars = sum(len(q.text) + len(q.context) for q in questions["train"]) / num["train"]
    return Counts(num["train"], len(windows), num["select"], num["report"], chars)
