"""The splits of tasks that are made of tokens: blocks of text, and questions in windows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from search_spaces.blocks import block_hashes, make_blocks
from search_spaces.corpus import check_apart, read_corpus, text_file
from search_spaces.errors import Fault, SpecError
from search_spaces.questions import Question, context_hashes, read_questions, squad_file
from search_spaces.splits import AnySelectRule, HashSelect, split_hashes
from search_spaces.token_sources import AnswersSource, FileWordsSource, SquadSource, WordsSource
from search_spaces.word_pieces import WordPieces

Blocks = npt.NDArray[np.int32]


def block_splits(
    source: WordsSource,
    rule: AnySelectRule,
    num_train_blocks: int | None,
    pieces: WordPieces,
    max_length: int,
) -> dict[str, Blocks]:
    """Return the blocks of ``train``, ``select`` and ``report``, each of shape (n, max_length).

    Args:
        source: Where the text is.
        rule: How the select split is held out: whole blocks, equal ones together.
        num_train_blocks: Blocks to train on, fixed by hash; None = all that remain.
        pieces: The model's tokenizer.
        max_length: Tokens of a block.

    Raises:
        SpecError: The texts are faulty, too short or the same.
    """
    if isinstance(source, FileWordsSource):
        check_apart(text_file(source, "train"), text_file(source, "report"))
    found: dict[str, Blocks] = {}
    faults: list[Fault] = []
    for split in ("train", "report"):
        try:
            name = _place(source, split)
            found[split] = make_blocks(read_corpus(source, split), pieces, max_length, name)
        except SpecError as error:
            faults += error.faults
    if faults:
        raise SpecError(faults)
    train, select = split_hashes(block_hashes(found["train"]), rule, num_train_blocks)
    held_out = found["train"][select] if isinstance(rule, HashSelect) else found["report"]
    return {"train": found["train"][train], "select": held_out, "report": found["report"]}


def question_splits(
    source: AnswersSource, rule: AnySelectRule, num_train_questions: int | None
) -> dict[str, list[Question]]:
    """Return the questions of ``train``, ``select`` and ``report``.

    Arguments and errors as for ``block_splits``; all questions of a context are held out
    together.
    """
    if isinstance(source, SquadSource):
        check_apart(squad_file(source, "train"), squad_file(source, "report"))
    found: dict[str, list[Question]] = {}
    faults: list[Fault] = []
    for split in ("train", "report"):
        try:
            found[split] = read_questions(source, split)
        except SpecError as error:
            faults += error.faults
    if faults:
        raise SpecError(faults)
    whole = found["train"]
    train, select = split_hashes(context_hashes(whole), rule, num_train_questions)
    held_out = (
        [whole[index] for index in select] if isinstance(rule, HashSelect) else found["report"]
    )
    return {
        "train": [whole[index] for index in train],
        "select": held_out,
        "report": found["report"],
    }


def _place(source: WordsSource, split: str) -> str:
    if isinstance(source, FileWordsSource):
        return str(text_file(source, split))
    return f"{source.repository} {source.train if split == 'train' else source.report}"
