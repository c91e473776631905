"""Tokenise once: an Arrow file for each split, keyed by content, memory-mapped by every trial."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from search_spaces.canonical import content_key
from search_spaces.checkpoint import backbone_entries
from search_spaces.contracts import TaskPlace
from search_spaces.datafiles import data_sha256
from search_spaces.errors import Fault, SpecError
from search_spaces.examples import Examples
from search_spaces.splits import AnySelectRule, check_unchanged, load_splits, select_rule
from search_spaces.tasks import task_source
from search_spaces.token_data import block_splits, question_splits
from search_spaces.token_sources import AnswersSource, TokenSource
from search_spaces.trial import ModelIdentity, TaskIdentity
from search_spaces.windows import make_windows
from search_spaces.word_pieces import word_pieces
from workers.token_tables import block_table, window_table, write_questions

TOKENS_VERSION = 2
COMPLETE = "COMPLETE"
QUESTIONS = ".questions.json"


@dataclass(frozen=True)
class TokenSplit:
    """The tokens of one split, concatenated without padding.

    Attributes:
        ids: Token ids of all examples, shape (total tokens,).
        types: Segment ids, the same shape.
        offsets: Example i is ``ids[offsets[i]:offsets[i + 1]]``, shape (n + 1,).
        labels: Class indices or scores, shape (n,); first and last token of the answer, (n, 2).
        num_truncated: Examples that were cut at the maximal length.
    """

    ids: npt.NDArray[np.int32]
    types: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float64]
    num_truncated: int

    def __len__(self) -> int:
        return len(self.labels)

    def words(self, num_words: int) -> npt.NDArray[np.bool_]:
        """Return which token ids occur, shape (num_words,)."""
        occurs = np.zeros(num_words, dtype=np.bool_)
        occurs[self.ids] = True
        return occurs


@dataclass(frozen=True)
class WindowSplit(TokenSplit):
    """Windows over the contexts of questions.

    Attributes:
        chars: First character in the context and the one after the last of each token, -1 for
            tokens that are not the context's, shape (total tokens, 2).
        can_begin: Whether an answer may begin at a token, shape (total tokens,).
        question_of: Index of each window's question, shape (n,).
        questions: JSON file of the questions' contexts and right answers.
    """

    chars: npt.NDArray[np.int32]
    can_begin: npt.NDArray[np.bool_]
    question_of: npt.NDArray[np.int64]
    questions: Path


@cache
def library_version(distribution: str) -> str:
    """Return an installed distribution's version; its metadata take milliseconds to parse."""
    return version(distribution)


def token_splits(
    model: ModelIdentity, model_folder: Path, task: TaskIdentity, place: TaskPlace, cache: Path
) -> dict[str, TokenSplit]:
    """Return the tokens of every split, from the node's cache where they are there already.

    One process of a node builds them, others wait for its lock; a folder counts only once its
    last file is there, which is renamed into place.

    Raises:
        SpecError: The data are faulty or changed since the sweep was planned, or the tokenizer
            gives a text no token, or an id that the model has no embedding for.
    """
    libraries = [library_version(name) for name in ("transformers", "tokenizers")]
    names = [
        "tokens",
        TOKENS_VERSION,
        *libraries,
        model.tokenizer_sha256,
        place.select,
        task.data_sha256,
    ]
    folder = cache / "tokens" / content_key([*names, task.num_train_examples, task.max_length])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / COMPLETE).exists():
            _build(folder, model_folder, task, place)
    splits = {path.stem: _read(path) for path in sorted(folder.glob("*.arrow"))}
    _check(splits, model_folder, place.name)
    return splits


def _build(folder: Path, model_folder: Path, task: TaskIdentity, place: TaskPlace) -> None:
    source = task_source(place.source)
    if isinstance(source, TokenSource):
        check_unchanged(place.name, data_sha256(source), task.data_sha256)
        _build_from_tokens(folder, model_folder, task, source, select_rule(place.select))
    else:
        _build_labelled(folder, model_folder, task, place)
    (folder / COMPLETE).write_text("")


def _build_from_tokens(
    folder: Path, model_folder: Path, task: TaskIdentity, source: TokenSource, rule: AnySelectRule
) -> None:
    pieces, num = word_pieces(model_folder), task.num_train_examples
    if isinstance(source, AnswersSource):
        for name, questions in question_splits(source, rule, num).items():
            windows = make_windows(questions, pieces, task.max_length, source)
            _publish(folder / f"{name}.arrow", window_table(windows))
            write_questions(folder / f"{name}{QUESTIONS}", questions)
        return
    for name, blocks in block_splits(source, rule, num, pieces, task.max_length).items():
        _publish(folder / f"{name}.arrow", block_table(blocks))


def _build_labelled(folder: Path, model_folder: Path, task: TaskIdentity, place: TaskPlace) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model_folder), local_files_only=True)
    splits = load_splits(place, task.num_train_examples, task.data_sha256)
    for name, examples in splits.items():
        _publish(folder / f"{name}.arrow", _tokenise(tokenizer, examples, task.max_length))


def _tokenise(tokenizer: object, examples: Examples, max_length: int) -> pa.Table:
    encode = tokenizer  # a fast tokenizer of transformers: called with lists
    whole = encode(examples.texts, examples.pairs, return_token_type_ids=True)  # type: ignore[operator]
    cut = encode(  # type: ignore[operator]
        examples.texts,
        examples.pairs,
        truncation=True,
        max_length=max_length,
        return_token_type_ids=True,
    )
    truncated = [len(a) > len(b) for a, b in zip(whole["input_ids"], cut["input_ids"], strict=True)]
    return pa.table(
        {
            "ids": pa.array(cut["input_ids"], pa.large_list(pa.int32())),
            "types": pa.array(cut["token_type_ids"], pa.large_list(pa.int32())),
            "label": pa.array([float(label) for label in examples.labels], pa.float64()),
            "truncated": pa.array(truncated, pa.bool_()),
        }
    )


def _publish(path: Path, table: pa.Table) -> None:
    partial = path.with_suffix(".partial")
    with pa.ipc.new_file(str(partial), table.schema) as writer:
        writer.write_table(table.combine_chunks())
    os.replace(partial, path)


def _read(path: Path) -> TokenSplit:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
    ids, types = table["ids"].chunk(0), table["types"].chunk(0)
    split = TokenSplit(
        ids=ids.values.to_numpy(),
        types=types.values.to_numpy(),
        offsets=ids.offsets.to_numpy(),
        labels=table["label"].chunk(0).to_numpy(),
        num_truncated=int(np.count_nonzero(table["truncated"].to_numpy())),
    )
    if "chars" not in table.column_names:
        return split
    last = table["last"].chunk(0).to_numpy()
    return WindowSplit(
        **{name: getattr(split, name) for name in ("ids", "types", "offsets", "num_truncated")},
        labels=np.stack([split.labels, last], axis=1),
        chars=table["chars"].chunk(0).values.to_numpy().reshape(-1, 2),
        can_begin=table["can_begin"].chunk(0).values.to_numpy(zero_copy_only=False),
        question_of=table["question"].chunk(0).to_numpy(),
        questions=path.with_name(f"{path.stem}{QUESTIONS}"),
    )


def _check(splits: dict[str, TokenSplit], model_folder: Path, task: str) -> None:
    """Refuse tokens that the model has no embedding for, and examples without any.

    Other examples of a batch would stand in for an example without tokens.
    """
    tables, faults = backbone_entries(model_folder), []
    for name, split in splits.items():
        for what, ids, table in (
            ("token", split.ids, "embeddings.word_embeddings.weight"),
            ("segment", split.types, "embeddings.token_type_embeddings.weight"),
        ):
            largest, num_rows = int(ids.max(initial=0)), tables[table].shape[0]
            if largest >= num_rows:
                problem = f"the tokenizer gives the {what} id {largest}, but the model's ids end "
                problem += f"at {num_rows - 1}."
                hint = "Copy tokenizer and weights of one model."
                faults.append(Fault(f"task '{task}'", name, problem, hint))
        bare = np.flatnonzero(np.diff(split.offsets) == 0)
        if len(bare):
            problem = f"{len(bare)} texts have no tokens: the tokenizer adds none to an empty text."
            hint = "Remove empty texts, or give the model a tokenizer that adds [CLS] and [SEP]."
            faults.append(Fault(f"task '{task}'", name, problem, hint))
    if faults:
        raise SpecError(faults)
