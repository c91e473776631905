"""Cut contexts into windows of tokens beside their question, and find the answers in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.errors import Fault, SpecError
from search_spaces.questions import Question
from search_spaces.token_sources import AnswersSource
from search_spaces.word_pieces import WordPieces

OUTSIDE = -1  # in place of a character, for tokens that are not the context's


@dataclass(frozen=True)
class Windows:
    """Windows over the contexts of some questions, a question's windows side by side.

    Attributes:
        ids: Token ids of each window.
        types: Segment ids, likewise.
        chars: First character and the one after the last, in the context, of each token.
        can_begin: Whether an answer may begin at each token: of all windows that show a token of
            the context, in the one that shows most around it.
        answers: First and last token of the answer; 0 and 0, the first token, in a window that
            does not hold the whole answer.
        question_of: Index of each window's question.
        num_cut: Questions cut at ``max_query_length``.
    """

    ids: list[list[int]]
    types: list[list[int]]
    chars: list[npt.NDArray[np.int32]]
    can_begin: list[npt.NDArray[np.bool_]]
    answers: list[tuple[int, int]]
    question_of: list[int]
    num_cut: int

    def __len__(self) -> int:
        return len(self.ids)


def check_room(source: AnswersSource, pieces: WordPieces, max_length: int, place: str) -> None:
    """Refuse windows without room for a context beside the longest question.

    Raises:
        SpecError: There is none, or nothing stands before a question, where windows without an
            answer point.
    """
    if not pieces.pair.parts[0]:
        problem = "adds no special token before a question, to which 'no answer here' could point."
        raise SpecError([Fault(place, "source", problem, "Use a model whose tokenizer has [CLS].")])
    smallest = source.max_query_length + pieces.pair.num_specials + 1
    if max_length < smallest:
        problem = (
            f"is {max_length}, but a question of max_query_length {source.max_query_length} "
            f"tokens, {pieces.pair.num_specials} special ones and one of the context need "
            f"{smallest}."
        )
        hint = f"Write max_length: {smallest} or more; the paper has 384."
        raise SpecError([Fault(place, "max_length", problem, hint)])


def make_windows(
    questions: Sequence[Question], pieces: WordPieces, max_length: int, source: AnswersSource
) -> Windows:
    """Return all windows of some questions.

    As the reference's run_squad.py: a window holds the question, cut at ``max_query_length``,
    and as much of the context as fits; the next begins ``doc_stride`` tokens later, until the
    context's end is reached. The first answer is the one that is learned. Where windows overlap,
    an answer may begin in the window of "maximal context" only.

    Args:
        questions: In the order of the result.
        pieces: The tokenizer.
        max_length: Tokens of a window, special ones counted.
        source: Says how contexts are cut.
    """
    contexts = _encoded({question.context for question in questions}, pieces)
    asked = _encoded({question.text for question in questions}, pieces)
    found = Windows([], [], [], [], [], [], 0)
    num_cut = 0
    for index, question in enumerate(questions):
        query = list(asked[question.text].ids)
        num_cut += len(query) > source.max_query_length
        query = query[: source.max_query_length]
        context = _Context(contexts[question.context])
        room = max_length - pieces.pair.num_specials - len(query)
        answer = context.tokens_of(*question.answers[0])
        spans = list(_spans(len(context.ids), room, min(room, source.doc_stride)))
        owners = fullest_spans(spans, len(context.ids))
        for place, span in enumerate(spans):
            _add(found, index, query, context, span, owners == place, answer, pieces)
    return replace(found, num_cut=num_cut)


class _Context:
    """A context's tokens, and the characters that each stands for."""

    def __init__(self, encoding: Any) -> None:
        self.ids: list[int] = list(encoding.ids)
        self.chars = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)

    def tokens_of(self, text: str, start: int) -> tuple[int, int] | None:
        """Return the first and last token that share a character with an answer, if any do."""
        inside = (self.chars[:, 1] > start) & (self.chars[:, 0] < start + len(text))
        inside &= self.chars[:, 1] > self.chars[:, 0]
        places = np.flatnonzero(inside)
        return (int(places[0]), int(places[-1])) if len(places) else None


def _encoded(texts: set[str], pieces: WordPieces) -> dict[str, Any]:
    some = sorted(texts)
    encodings = pieces.tokenizer.encode_batch(some, add_special_tokens=False)
    return dict(zip(some, encodings, strict=True))


def _spans(num_tokens: int, room: int, stride: int) -> Iterator[tuple[int, int]]:
    """Yield (first, one after the last) of each window's part of the context."""
    begin = 0
    while True:
        yield begin, min(begin + room, num_tokens)
        if begin + room >= num_tokens:
            return
        begin += stride


def fullest_spans(spans: Sequence[tuple[int, int]], num_tokens: int) -> npt.NDArray[np.intp]:
    """Return for each token the span that shows most around it, the first of equals.

    As ``_check_is_max_context`` of run_squad.py: the smaller of the tokens to the left and to the
    right, plus a hundredth of the span's length.

    Args:
        spans: (first, one after the last) token of each.
        num_tokens: Tokens that they cover together.
    """
    places = np.arange(num_tokens)
    rows = []
    for begin, end in spans:
        around = np.minimum(places - begin, end - 1 - places) + 0.01 * (end - begin)
        rows.append(np.where((places >= begin) & (places < end), around, -np.inf))
    return np.asarray(np.argmax(np.array(rows), axis=0), dtype=np.intp)


def _add(
    windows: Windows,
    index: int,
    query: list[int],
    context: _Context,
    span: tuple[int, int],
    is_fullest: npt.NDArray[np.bool_],
    answer: tuple[int, int] | None,
    pieces: WordPieces,
) -> None:
    """Append one window: before, question, between, part of the context, after."""
    frame, (begin, end) = pieces.pair, span
    before, between, after = frame.parts
    part = context.ids[begin:end]
    types = zip(
        (frame.part_types[0], query, frame.part_types[1], part, frame.part_types[2]),
        (None, frame.text_types[0], None, frame.text_types[1], None),
        strict=True,
    )
    first = len(before) + len(query) + len(between)
    chars = np.full((first + len(part) + len(after), 2), OUTSIDE, dtype=np.int32)
    chars[first : first + len(part)] = context.chars[begin:end]
    can_begin = np.zeros(len(chars), dtype=np.bool_)
    can_begin[first : first + len(part)] = is_fullest[begin:end]
    holds = answer is not None and begin <= answer[0] and answer[1] < end
    shift = first - begin
    windows.ids.append([*before, *query, *between, *part, *after])
    windows.types.append(
        list(chain.from_iterable(t if kind is None else [kind] * len(t) for t, kind in types))
    )
    windows.chars.append(chars)
    windows.can_begin.append(can_begin)
    windows.answers.append(
        (answer[0] + shift, answer[1] + shift) if holds and answer is not None else (0, 0)
    )
    windows.question_of.append(index)
