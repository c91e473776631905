"""A model's tokenizer without its task library, so that planning can count tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.errors import Fault, SpecError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
_USUAL_MASKS = ("[MASK]", "<mask>")
_PROBE = "a"  # any text: only what stands around its tokens is looked at


@dataclass(frozen=True)
class Frame:
    """The special tokens around one text or two, and the segment of each part.

    Attributes:
        parts: Ids before the first text, between the texts (empty for one) and at the end.
        part_types: Segment ids of the same tokens.
        text_types: Segment ids of the texts.
    """

    parts: tuple[tuple[int, ...], ...]
    part_types: tuple[tuple[int, ...], ...]
    text_types: tuple[int, ...]

    @property
    def num_specials(self) -> int:
        """How many special tokens there are."""
        return sum(map(len, self.parts))


@dataclass(frozen=True)
class WordPieces:
    """What turns text into tokens, as ``tokenizer.json`` has it.

    Attributes:
        tokenizer: Neither truncates nor pads.
        single: What stands around one text.
        pair: What stands around two.
        mask_id: Of the token that hides a word; None where there is none.
    """

    tokenizer: Tokenizer
    single: Frame
    pair: Frame
    mask_id: int | None

    @property
    def num_words(self) -> int:
        """Tokens of the vocabulary, added ones too."""
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))


def word_pieces(folder: Path) -> WordPieces:
    """Return the tokenizer in a model's folder; kept as long as its files stay as they are.

    Raises:
        SpecError: There is no tokenizer.json, or it cannot be read.
    """
    files = [folder / name for name in (TOKENIZER, *_SETTINGS)]
    found = [path.stat() for path in files if path.is_file()]
    return _loaded(folder, tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found))


@lru_cache(maxsize=4)
def _loaded(folder: Path, files: tuple[tuple[int, int, int], ...]) -> WordPieces:
    from tokenizers import Tokenizer  # only tasks made of tokens need it before a trial

    path = folder / TOKENIZER
    if not path.is_file():
        problem = f"holds no {TOKENIZER}, which tells how many tokens a text has."
        hint = "Load the tokenizer with transformers.AutoTokenizer and call save_pretrained."
        raise SpecError([Fault(str(folder), "", problem, hint)])
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        problem = f"cannot be read: {str(error)[:200]}."
        raise SpecError([Fault(str(path), "", problem, "Copy it again.")]) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    single, pair = _frame(tokenizer.encode(_PROBE)), _frame(tokenizer.encode(_PROBE, _PROBE))
    return WordPieces(tokenizer, single, pair, _mask_id(folder, tokenizer))


def _frame(encoding: Any) -> Frame:
    """Return what stands around the texts of an encoding."""
    parts: list[list[int]] = [[]]
    types: list[list[int]] = [[]]
    text_types: dict[int, int] = {}
    for token, kind, text in zip(
        encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True
    ):
        if text is None:
            parts[-1].append(token)
            types[-1].append(kind)
        elif text not in text_types:
            text_types[text] = kind
            parts.append([])
            types.append([])
    return Frame(
        tuple(map(tuple, parts)), tuple(map(tuple, types)), tuple(text_types[t] for t in text_types)
    )


def _mask_id(folder: Path, tokenizer: Tokenizer) -> int | None:
    """Return the id of the token that the settings name for hidden words, or of the usual one."""
    names: list[str] = []
    for file in _SETTINGS:
        path = folder / file
        given = json.loads(path.read_bytes()).get("mask_token") if path.is_file() else None
        names += [given["content"] if isinstance(given, dict) else given] if given else []
    for name in (*names, *_USUAL_MASKS):
        if (found := tokenizer.token_to_id(name)) is not None:
            return int(found)
    return None
