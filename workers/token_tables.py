"""Blocks and windows of tokens as the tables that the token cache keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from search_spaces.questions import Question
from search_spaces.windows import Windows


def block_table(blocks: npt.NDArray[np.int32]) -> pa.Table:
    """Return blocks, shape (n, length), as a table: one segment, no labels, nothing cut."""
    num, length = blocks.shape
    offsets = pa.array(np.arange(num + 1, dtype=np.int64) * length)
    return pa.table(
        {
            "ids": pa.LargeListArray.from_arrays(offsets, pa.array(blocks.ravel())),
            "types": pa.LargeListArray.from_arrays(
                offsets, pa.array(np.zeros(blocks.size, np.int32))
            ),
            "label": pa.array(np.zeros(num)),
            "truncated": pa.array(np.zeros(num, dtype=np.bool_)),
        }
    )


def window_table(windows: Windows) -> pa.Table:
    """Return windows as a table; its labels are the answers' first tokens, ``last`` their last.

    Questions that were cut are counted once each, in their first rows.
    """
    num = len(windows)
    first, last = np.array(windows.answers, dtype=np.float64).T
    return pa.table(
        {
            "ids": pa.array(windows.ids, pa.large_list(pa.int32())),
            "types": pa.array(windows.types, pa.large_list(pa.int32())),
            "label": pa.array(first),
            "last": pa.array(last),
            "chars": pa.array([c.ravel() for c in windows.chars], pa.large_list(pa.int32())),
            "can_begin": pa.array(windows.can_begin, pa.large_list(pa.bool_())),
            "question": pa.array(windows.question_of, pa.int64()),
            "truncated": pa.array(np.arange(num) < windows.num_cut),
        }
    )


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Write what scoring needs of questions: their contexts, each once, and right answers."""
    contexts = {question.context: None for question in questions}
    place = {context: index for index, context in enumerate(contexts)}
    data = {
        "contexts": list(contexts),
        "context_of": [place[question.context] for question in questions],
        "answers": [[text for text, _ in question.answers] for question in questions],
    }
    path.write_text(json.dumps(data))
