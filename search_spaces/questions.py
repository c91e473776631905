"""Read questions with their contexts and answers in SQuAD's format, and refuse wrong ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.errors import Fault, SpecError
from search_spaces.examples import MAX_FAULTS_PER_SPLIT
from search_spaces.hub import check_columns, load_hub
from search_spaces.inputs import local_path
from search_spaces.tables import read_bytes
from search_spaces.token_sources import (
    SQUAD_CONFIG,
    SQUAD_REPOSITORY,
    AnswersSource,
    SquadHubSource,
    SquadSource,
)

_HUB_COLUMNS = ("id", "context", "question", "answers")
_SHOWN_CHARS = 40


@dataclass(frozen=True)
class Question:
    """A question about a context.

    Attributes:
        id: The file's own name for it.
        text: The question.
        context: Where the answer stands.
        answers: Text and first character in the context of each right answer.
    """

    id: str
    text: str
    context: str
    answers: tuple[tuple[str, int], ...]


def read_questions(source: AnswersSource, split: str) -> list[Question]:
    """Return the questions of a split, in their order.

    Args:
        source: Where they are.
        split: ``train`` or ``report``.

    Raises:
        SpecError: They cannot be had, are not in the format of SQuAD v1.1, or an answer does
            not stand where the file says; at most ``MAX_FAULTS_PER_SPLIT`` one by one.
    """
    if isinstance(source, SquadHubSource):
        place, rows = _hub_rows(source, "train" if split == "train" else "validation")
    else:
        place, rows = str(squad_file(source, split)), _file_rows(squad_file(source, split))
    questions = [_question(row) for row in rows]
    faults = [fault for question in questions for fault in _faults(place, question)]
    hidden = len(faults) - MAX_FAULTS_PER_SPLIT
    if hidden > 0:
        more = Fault(place, "", f"has {hidden} more faults like these.")
        faults = [*faults[:MAX_FAULTS_PER_SPLIT], more]
    if not questions:
        faults = [Fault(place, "", "holds no questions.", "A split needs at least one.")]
    if faults:
        raise SpecError(faults)
    return questions


def squad_file(source: SquadSource, split: str) -> Path:
    """Return the file of a split."""
    return local_path(source.train if split == "train" else source.report)


def context_hashes(questions: Sequence[Question]) -> list[bytes]:
    """Return the sha256 of each question's context: a context's questions stay together."""
    return [hashlib.sha256(q.context.encode(errors="surrogatepass")).digest() for q in questions]


def _hub_rows(source: SquadHubSource, split: str) -> tuple[str, Iterable[Mapping[str, Any]]]:
    place = f"{SQUAD_REPOSITORY} {split}"
    hint = "Check the network, or give the official files: kind: squad."
    rows = load_hub(SQUAD_REPOSITORY, SQUAD_CONFIG, split, source.revision, place, hint)
    check_columns(rows, _HUB_COLUMNS, place)
    found = []
    for row in rows:
        given = row["answers"]
        pairs = zip(given["text"], given["answer_start"], strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
        found.append({**row, "answers": answers})
    return place, found


def _file_rows(path: Path) -> list[dict[str, Any]]:
    """Return a file's questions, each beside its context."""
    try:
        data = json.loads(read_bytes(path))
    except ValueError as error:
        hint = "Give the official file, for example train-v1.1.json."
        raise SpecError([Fault(str(path), "", f"is no JSON: {error}.", hint)]) from None
    try:
        rows = list(_flat(data))
        _check_answerable(path, data, rows)
        for row in rows:
            _question(row)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        missing = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        problem = f"is not in the format of SQuAD v1.1: {missing}."
        hint = "It must hold data > paragraphs > context, qas > id, question, answers."
        raise SpecError([Fault(str(path), "", problem, hint)]) from None
    return rows


def _flat(data: Any) -> Iterator[dict[str, Any]]:
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            for row in paragraph["qas"]:
                yield {**row, "context": paragraph["context"]}


def _check_answerable(path: Path, data: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    num_impossible = sum(bool(row.get("is_impossible")) for row in rows)
    if num_impossible or str(data.get("version", "")).lstrip("v").startswith("2"):
        problem = (
            f"is in the format of SQuAD v2, where questions may have no answer (is_impossible: "
            f"{num_impossible} here), but v1.1 is needed."
        )
        raise SpecError([Fault(str(path), "", problem, "Give the file of SQuAD v1.1.")])


def _question(row: Mapping[str, Any]) -> Question:
    answers = tuple((_text(a["text"]), _start(a["answer_start"])) for a in row["answers"])
    return Question(str(row["id"]), _text(row["question"]), _text(row["context"]), answers)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} stands where text must be")
    return value


def _start(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"answer_start is {value!r}, but must be a whole number")
    return value


def _faults(place: str, question: Question) -> Iterator[Fault]:
    name = f"question '{question.id}'"
    if not question.text.strip():
        yield Fault(place, name, "is empty.", "Remove it, or write its text.")
    if not question.answers:
        yield Fault(place, name, "has no answers, but must have at least one.", "Remove it.")
    for text, start in question.answers:
        found = question.context[start : start + len(text)] if start >= 0 else ""
        if text.strip() and found == text:
            continue
        shown = repr(found[:_SHOWN_CHARS]) if found else "nothing"
        problem = (
            f"the answer {text[:_SHOWN_CHARS]!r} must stand at answer_start {start} of its "
            f"context of {len(question.context)} characters, but there stands {shown}."
        )
        yield Fault(place, name, problem, "Count characters, not bytes, from 0.")
