"""A tokenizer is named by its file or its vocabulary, and its settings must agree with it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from search_spaces.errors import SpecError
from search_spaces.tokenizer_files import tokenizer_sha256


def test_the_tokenizer_is_its_file_or_its_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\na\n")
    lower = tokenizer_sha256(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = tokenizer_sha256(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert len({lower, cased, tokenizer_sha256(tmp_path)}) == 3


def bert_tokenizer(lowercase: bool = True, strip_accents: bool | None = None) -> dict[str, Any]:
    normalizer = {
        "type": "BertNormalizer",
        "lowercase": lowercase,
        "strip_accents": strip_accents,
        "handle_chinese_chars": True,
    }
    return {"model": {"type": "WordPiece"}, "normalizer": normalizer, "truncation": None}


BYTES = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}
GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast"}


def tokenizer_of(folder: Path, whole: dict[str, Any], settings: dict[str, Any]) -> str:
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer_sha256(folder)


@pytest.mark.parametrize(
    ("whole", "settings", "message"),
    [
        (bert_tokenizer(), {"do_lower_case": False}, "do_lower_case: is false, but .* has true"),
        (bert_tokenizer(False), {}, "do_lower_case: is by default true, but .* has false"),
        (bert_tokenizer(), {"strip_accents": False}, "strip_accents: is false, but .* has true"),
        (bert_tokenizer(strip_accents=False), {}, "strip_accents: is by default true, but"),
        (bert_tokenizer(), {"tokenize_chinese_chars": False}, "chinese_chars: is false, but"),
        (bert_tokenizer(), {"truncation_side": "left"}, 'side: is "left", but .* has "right"'),
        (bert_tokenizer(), {**GENERIC, "truncation_side": "left"}, 'side: is "left", but'),
        (BYTES, {"add_prefix_space": False}, "add_prefix_space: is false, but .* has true"),
        (BYTES, {}, "add_prefix_space: is by default false, but .* has true"),
    ],
)
def test_settings_that_contradict_the_tokenizer_are_refused(
    tmp_path: Path, whole: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    """transformers follows the settings, so tokenizer.json alone would not name the tokens."""
    with pytest.raises(SpecError, match=rf"tokenizer_config\.json: .*{message}"):
        tokenizer_of(tmp_path, whole, settings)


@pytest.mark.parametrize(
    ("whole", "settings"),
    [
        (bert_tokenizer(), {"do_lower_case": True, "strip_accents": None}),
        (bert_tokenizer(), {"strip_accents": True}),
        (bert_tokenizer(False), {"do_lower_case": False, "truncation_side": "right"}),
        (bert_tokenizer(False), {**GENERIC, "do_lower_case": True}),  # not looked at
        (BYTES, {"add_prefix_space": True}),
        ({"model": {"type": "WordPiece"}}, GENERIC),
    ],
)
def test_settings_that_agree_leave_the_name_alone(
    tmp_path: Path, whole: dict[str, Any], settings: dict[str, Any]
) -> None:
    found = tokenizer_of(tmp_path, whole, settings)
    assert found == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()


@pytest.mark.parametrize(("text", "message"), [("{", "is no JSON"), ("[]", "is a JSON list, not")])
def test_damaged_tokenizer_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(SpecError, match=rf"tokenizer\.json: {message}"):
        tokenizer_sha256(tmp_path)
