"""A tokenizer is named by its file or its vocabulary, and its settings must agree with it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from search_spaces.errors import SpecError
from search_spaces.special_tokens import BERT_TOKENS, ROBERTA_TOKENS
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


ADDED = [
    {"id": index, "content": token, "special": True, "normalized": False}
    for index, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
]
AROUND = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ],
    "special_tokens": {
        "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
        "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
    },
}
SPECIAL = bert_tokenizer() | {
    "model": {"type": "WordPiece", "unk_token": "[UNK]"},
    "added_tokens": ADDED,
    "post_processor": AROUND,
    "padding": {"pad_token": "[PAD]"},
}
ROBERTA = {
    "model": {"type": "BPE"},
    "added_tokens": [
        {"id": index, "content": token, "special": True}
        for index, token in enumerate(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    ],
    "post_processor": {"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 2]},
}
UNIGRAM = ROBERTA | {"model": {"type": "Unigram", "unk_id": 1, "vocab": [["<s>", 0], ["?", 0]]}}
NAMED, OWN = "special_tokens_map", "tokenizer_config"


@pytest.mark.parametrize(
    ("whole", "file", "settings", "message"),
    [
        (SPECIAL, OWN, {"cls_token": "[UNK]"}, r'cls_token: is "\[UNK\]", but .* has "\[CLS\]"'),
        (SPECIAL, OWN, {"sep_token": {"content": "x"}}, r'sep_token: is "x", but .* has "\[SEP\]"'),
        (SPECIAL, OWN, {"unk_token": "[PAD]"}, r'unk_token: is "\[PAD\]", but .* has "\[UNK\]"'),
        (SPECIAL, OWN, {"pad_token": "[SEP]"}, r'pad_token: is "\[SEP\]", but .* has "\[PAD\]"'),
        (SPECIAL, OWN, {"mask_token": "[SEP]"}, r'mask_token: is "\[SEP\]", but .* has "\[MASK\]"'),
        (SPECIAL, OWN, {**GENERIC, "mask_token": "x"}, 'mask_token: is "x", but'),
        (SPECIAL, NAMED, {"cls_token": "[UNK]"}, r'cls_token: is "\[UNK\]", but .* has "\[CLS\]"'),
        (SPECIAL, OWN, {"bos_token": "the"}, r'bos_token: is "the", but .* has \["\[CLS\]", '),
        (SPECIAL, OWN, {"extra_special_tokens": ["[PAD]", "the"]}, r'tokens\[1\]: is "the", but'),
        (SPECIAL, NAMED, {"additional_special_tokens": ["a"]}, r'tokens\[0\]: is "a", but'),
        (SPECIAL, "added_tokens", {"new": 5}, "new: is 5, but .* has null"),
        (
            SPECIAL,
            OWN,
            {"added_tokens_decoder": {"2": {"content": "[UNK]", "special": True}}},
            r'decoder\.2: is {"content": "\[UNK\]", "special": true}, but .* has {"content": "\[C',
        ),
        (ROBERTA, OWN, {"cls_token": "</s>"}, 'cls_token: is "</s>", but .* has "<s>"'),
        (ROBERTA, OWN, {"mask_token": "<unk>"}, 'mask_token: is "<unk>", but .* has "<mask>"'),
        (UNIGRAM, OWN, {}, r'unk_token: is by default "<unk>", but .* has "\?"'),
        (SPECIAL | {"post_processor": ROBERTA["post_processor"]}, OWN, {}, "cls_token: is by defa"),
    ],
)
def test_special_tokens_that_contradict_the_tokenizer_are_refused(
    tmp_path: Path, whole: dict[str, Any], file: str, settings: dict[str, Any], message: str
) -> None:
    """They would stand in every input, or hide words, without being part of the name."""
    (tmp_path / f"{file}.json").write_text(json.dumps(settings))
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(SpecError, match=rf"{file}\.json: .*{message}"):
        tokenizer_sha256(tmp_path)


@pytest.mark.parametrize(
    ("whole", "settings"),
    [
        (SPECIAL, {}),
        (
            SPECIAL,
            {one: f"[{one[:-6].upper()}]" for one in ("cls_token", "sep_token", "mask_token")},
        ),
        (SPECIAL, {"cls_token": {"content": "[CLS]", "lstrip": False}, "pad_token": None}),
        (SPECIAL, {"added_tokens_decoder": {"4": ADDED[4]}, "extra_special_tokens": ["[SEP]"]}),
        (SPECIAL, {"bos_token": "[CLS]", "eos_token": "[SEP]", "add_bos_token": False}),
        (ROBERTA, {"bos_token": "<s>", "mask_token": {"content": "<mask>", "lstrip": True}}),
        ({**ROBERTA, "post_processor": {"type": "Sequence", "processors": [AROUND]}}, GENERIC),
    ],
)
def test_special_tokens_that_agree_leave_the_name_alone(
    tmp_path: Path, whole: dict[str, Any], settings: dict[str, Any]
) -> None:
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(settings))
    found = tokenizer_of(tmp_path, whole, settings)
    assert found == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cafe", "café", "你", "[unused]", "a", "b"]
TEXT = "Café 你好 ab nothing"


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        (OWN, {"strip_accents": False}),
        (OWN, {"tokenize_chinese_chars": False}),
        (OWN, {"do_lower_case": False}),
        (OWN, {"cls_token": "[unused]"}),
        (OWN, {"unk_token": "[unused]"}),
        (NAMED, {"unk_token": {"content": "[unused]", "lstrip": False}}),
        (OWN, {"extra_special_tokens": ["a"]}),
        (NAMED, {"sep_token": "[unused]"}),
        ("added_tokens", {"nothing": 11}),
    ],
)
def test_what_transformers_reads_beside_a_vocabulary_is_part_of_the_name(
    tmp_path: Path, file: str, settings: dict[str, Any]
) -> None:
    """Each setting changes the real tokenizer's tokens, and the name with them."""
    from transformers import AutoTokenizer

    names, ids = [], []
    for folder, changes in ((tmp_path / "plain", {}), (tmp_path / "changed", settings)):
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "bert"}')
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        (folder / f"{file}.json").write_text(json.dumps(changes))
        names.append(tokenizer_sha256(folder))
        ids.append(AutoTokenizer.from_pretrained(str(folder), local_files_only=True)(TEXT))
    assert ids[0]["input_ids"] != ids[1]["input_ids"]
    assert names[0] != names[1]


@pytest.mark.parametrize("vocabulary", ["vocab.txt", "vocab.json"])
def test_defaults_beside_a_vocabulary_leave_its_name_alone(tmp_path: Path, vocabulary: str) -> None:
    """Names of old stay: these are of a version that looked at the case alone."""
    (tmp_path / vocabulary).write_text("[PAD]\na\n")
    plain = tokenizer_sha256(tmp_path)
    assert plain[:10] == {"vocab.txt": "f8a5cd252a", "vocab.json": "ea5df68ae4"}[vocabulary]
    usual = BERT_TOKENS if vocabulary == "vocab.txt" else ROBERTA_TOKENS
    settings = {"strip_accents": None, "tokenize_chinese_chars": True, "pad_token": None, **usual}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"cls_token": usual["cls_token"]}))
    assert tokenizer_sha256(tmp_path) == plain


@pytest.mark.parametrize(("text", "message"), [("{", "is no JSON"), ("[]", "is a JSON list, not")])
def test_damaged_tokenizer_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(SpecError, match=rf"tokenizer\.json: {message}"):
        tokenizer_sha256(tmp_path)
