"""What turns text into tokens, by content; files that contradict each other are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces.canonical import content_key
from search_spaces.errors import Fault, SpecError
from search_spaces.special_tokens import (
    Pairs,
    beside_vocabulary,
    default_tokens,
    other_added,
    other_tokens,
)

WHOLE = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
NAMED = "special_tokens_map.json"
ADDED = "added_tokens.json"
VOCABULARIES = ("vocab.json", "merges.txt", "sentencepiece.bpe.model", "vocab.txt")
# These classes of transformers take everything but the side of truncation from tokenizer.json;
# the others build normalizer and pre-tokenizer from the settings, by default as BERT and RoBERTa.
_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
_BERT_DEFAULTS = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
_NO_NORMALIZER = {"lowercase": False, "strip_accents": False, "handle_chinese_chars": False}


def tokenizer_sha256(folder: Path) -> str:
    """Return the sha256 of what turns text into tokens.

    That is tokenizer.json where there is one, else the vocabulary files, whether text is
    lower-cased, and what else is set otherwise than by default.

    Raises:
        SpecError: There is no tokenizer, or its settings contradict tokenizer.json: they would
            decide the tokens without being part of its name.
    """
    whole = folder / WHOLE
    if whole.is_file():
        _check_settings(folder, _read(whole))
        return hashlib.sha256(whole.read_bytes()).hexdigest()
    files = [folder / name for name in VOCABULARIES if (folder / name).is_file()]
    if not files:
        problem = f"holds no {WHOLE} and no vocabulary file."
        raise _fault(folder, problem, "Copy the tokenizer's files beside the weights.")
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    settings, named, added = (_optional(folder / name) for name in (SETTINGS, NAMED, ADDED))
    lower_cases = bool(settings.get("do_lower_case", True))
    others = beside_vocabulary(settings, named, added, is_word_pieces="vocab.txt" in hashes)
    parts = {"files": hashes, "do_lower_case": lower_cases}
    return content_key(parts | ({"settings": others} if others else {}))


def _optional(path: Path) -> dict[str, Any]:
    return _read(path) if path.is_file() else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        raise _fault(path, f"is no JSON: {error}.", "Copy it again.") from None
    if not isinstance(data, dict):
        raise _fault(path, f"is a JSON {type(data).__name__}, not an object.", "Copy it again.")
    return data


def _check_settings(folder: Path, whole: Mapping[str, Any]) -> None:
    settings, named, added = (_optional(folder / name) for name in (SETTINGS, NAMED, ADDED))
    found, defaults = _sides(whole, settings), Pairs()
    if settings.get("tokenizer_class") not in _GENERIC:
        found |= _bert_fields(whole, settings) | _prefix_space(whole, settings)
        defaults = default_tokens(whole, settings, named)
    defaults |= {field: found.pop(field) for field in [*found] if field not in settings}
    found |= other_tokens(whole, settings)
    faults = [
        *_faults(folder / SETTINGS, found),
        *_faults(folder / SETTINGS, defaults, "is by default"),
        *_faults(folder / NAMED, other_tokens(whole, named)),
        *_faults(folder / ADDED, other_added(whole, added)),
    ]
    if faults:
        raise SpecError(faults)


def _faults(path: Path, found: Pairs, verb: str = "is") -> list[Fault]:
    return [
        Fault(
            str(path),
            field,
            f"{verb} {json.dumps(given)}, but {WHOLE} has {json.dumps(there)}: "
            "the setting would win unnoticed.",
            f"Write the value of {WHOLE}, or save the tokenizer anew with save_pretrained.",
        )
        for field, (given, there) in found.items()
        if given != there
    ]


def _sides(whole: Mapping[str, Any], settings: Mapping[str, Any]) -> Pairs:
    there = str((whole.get("truncation") or {}).get("direction", "right")).lower()
    return {"truncation_side": (settings.get("truncation_side", there), there)}


def _bert_fields(whole: Mapping[str, Any], settings: Mapping[str, Any]) -> Pairs:
    """Return each setting of BERT's normalizer, and what tokenizer.json has."""
    if (whole.get("model") or {}).get("type") != "WordPiece":
        return {}
    given = {name: settings.get(name, default) for name, default in _BERT_DEFAULTS.items()}
    there = _part(whole.get("normalizer"), "normalizers", "BertNormalizer") or _NO_NORMALIZER
    lower, strip = there["lowercase"], there["strip_accents"]
    if given["strip_accents"] is None:  # None means: as do_lower_case
        given["strip_accents"] = given["do_lower_case"] if strip is not None else None
    elif strip is None:
        strip = lower
    if given["do_lower_case"] != lower:  # what follows from it is no fault of its own
        given["strip_accents"] = strip
    values = {
        "do_lower_case": lower,
        "strip_accents": strip,
        "tokenize_chinese_chars": there["handle_chinese_chars"],
    }
    return {name: (given[name], value) for name, value in values.items()}


def _prefix_space(whole: Mapping[str, Any], settings: Mapping[str, Any]) -> Pairs:
    found = _part(whole.get("pre_tokenizer"), "pretokenizers", "ByteLevel")
    if found is None:
        return {}
    given = settings.get("add_prefix_space", False)
    return {"add_prefix_space": (given, found.get("add_prefix_space", True))}


def _part(item: Any, children: str, wanted: str) -> dict[str, Any] | None:
    """Return the part of a type, which may stand alone or in a sequence."""
    if not isinstance(item, dict):
        return None
    parts = item.get(children, []) if item.get("type") == "Sequence" else [item]
    return next((part for part in parts if part.get("type") == wanted), None)


def _fault(path: Path, problem: str, hint: str) -> SpecError:
    return SpecError([Fault(str(path), "", problem, hint)])
