"""Cut text into blocks of tokens, the examples of masked language modelling."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from search_spaces.errors import Fault, SpecError
from search_spaces.word_pieces import WordPieces

_LINES_AT_ONCE = 10_000


def make_blocks(
    lines: Sequence[str], pieces: WordPieces, max_length: int, place: str
) -> npt.NDArray[np.int32]:
    """Return the text's tokens, concatenated and cut, each block between its special tokens.

    As the reference's TextDataset does (transformers 2.5.1, run_language_modeling.py): blocks
    know no documents, and the last, shorter one is dropped.

    Args:
        lines: The text; each line is tokenised by itself.
        pieces: The tokenizer.
        max_length: Tokens of a block, special ones counted.
        place: Names the text in faults.

    Returns:
        Token ids, shape (blocks, max_length).

    Raises:
        SpecError: The text is too short for one block.
    """
    tokens = _tokens(lines, pieces)
    room = max_length - pieces.single.num_specials
    num_blocks = len(tokens) // room if room > 0 else 0
    if not num_blocks:
        problem = (
            f"has {len(tokens)} tokens, but one block of max_length {max_length} needs {room}."
        )
        raise SpecError([Fault(place, "", problem, "Give more text, or a smaller max_length.")])
    before, after = pieces.single.parts
    blocks = np.empty((num_blocks, max_length), dtype=np.int32)
    blocks[:, : len(before)] = before
    blocks[:, len(before) : len(before) + room] = tokens[: num_blocks * room].reshape(-1, room)
    blocks[:, len(before) + room :] = after
    return blocks


def block_hashes(blocks: npt.NDArray[np.int32]) -> list[bytes]:
    """Return the sha256 of each block's ids, little-endian."""
    return [hashlib.sha256(block.astype("<i4").tobytes()).digest() for block in blocks]


def _tokens(lines: Sequence[str], pieces: WordPieces) -> npt.NDArray[np.int32]:
    found = [np.empty(0, dtype=np.int32)]
    for begin in range(0, len(lines), _LINES_AT_ONCE):
        some = list(lines[begin : begin + _LINES_AT_ONCE])
        encodings = pieces.tokenizer.encode_batch_fast(some, add_special_tokens=False)
        found += [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
    return np.concatenate(found)
