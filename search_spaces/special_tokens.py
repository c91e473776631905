"""Special tokens that a tokenizer's settings name, beside those of its tokenizer.json.

transformers (5.23) follows the settings: its classes build what stands around a text from them, and
each token that they name is cut out of a text whole. ``special_tokens_map.json`` goes before
``tokenizer_config.json``. The token that hides words is found by them too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

BERT_TOKENS = {
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
ROBERTA_TOKENS = {
    "cls_token": "<s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
    "bos_token": "<s>",
    "eos_token": "</s>",
}
_USUAL = {"WordPiece": BERT_TOKENS, "BPE": ROBERTA_TOKENS, "Unigram": ROBERTA_TOKENS}
_IN_EVERY_TEXT = ("cls_token", "sep_token", "unk_token")
_LISTS = ("extra_special_tokens", "additional_special_tokens")
_DECODER = "added_tokens_decoder"
_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")

Pairs = dict[str, tuple[Any, Any]]  # by field: what is given, and what tokenizer.json has


def other_tokens(whole: Mapping[str, Any], given: Mapping[str, Any]) -> Pairs:
    """Return each special token of one settings file beside what it has to be.

    Args:
        whole: tokenizer.json.
        given: tokenizer_config.json or special_tokens_map.json.
    """
    roles, known = _roles(whole), _known(whole)
    found: Pairs = {}
    for field, token in _named(given):
        name = field.partition("[")[0]
        if name in roles:
            found[field] = (token, roles[name])
        elif known is not None and token not in known:
            found[field] = (token, sorted(known))
    there = {str(one.get("id")): _form(one) for one in whole.get("added_tokens", ())}
    for index, token in _decoder(given).items():
        found[f"{_DECODER}.{index}"] = (_form(token), there.get(str(index)))
    return found


def default_tokens(whole: Mapping[str, Any], *given: Mapping[str, Any]) -> Pairs:
    """Return the tokens around a text that a class takes where no settings file names them."""
    kind, roles = (whole.get("model") or {}).get("type"), _roles(whole)
    usual = _USUAL.get(str(kind), {})
    return {
        name: (usual[name], roles[name])
        for name in _IN_EVERY_TEXT
        if name in usual and name in roles and not any(one.get(name) for one in given)
    }


def other_added(whole: Mapping[str, Any], added: Mapping[str, Any]) -> Pairs:
    """Return each token of added_tokens.json and its id, beside its id in tokenizer.json."""
    there = {one.get("content"): one.get("id") for one in whole.get("added_tokens", ())}
    return {token: (index, there.get(token)) for token, index in added.items()}


def beside_vocabulary(
    settings: Mapping[str, Any],
    named: Mapping[str, Any],
    added: Mapping[str, Any],
    is_word_pieces: bool,
) -> dict[str, Any]:
    """Return what decides the tokens beside the vocabulary files, where it is not the default.

    Args:
        settings: tokenizer_config.json; {} where there is none, as for the next ones.
        named: special_tokens_map.json, which counts only beside settings without added tokens.
        added: added_tokens.json; the same.
        is_word_pieces: Whether the vocabulary is BERT's.
    """
    has_own = _DECODER in settings
    given = {**settings, **({} if has_own else named)}
    defaults: dict[str, Any] = BERT_TOKENS if is_word_pieces else ROBERTA_TOKENS
    defaults = defaults | {
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "add_prefix_space": False,
        "truncation_side": "right",
    }
    values = {name: given.get(name, default) for name, default in defaults.items()}
    values |= dict(_named(given))
    if has_own:
        values[_DECODER] = {index: _form(one) for index, one in _decoder(settings).items()}
    elif added:
        values["added_tokens"] = dict(added)
    return {name: value for name, value in values.items() if value != defaults.get(name)}


def _named(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield field and token of all special tokens that a settings file names."""
    for name, value in given.items():
        if name.endswith("_token") and isinstance(value, str | Mapping):
            yield name, _content(value)
        elif name in _LISTS and value:
            tokens = value.values() if isinstance(value, Mapping) else value
            for index, token in enumerate(tokens):
                yield f"{name}[{index}]", _content(token)


def _decoder(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the added tokens of a settings file by id."""
    found = given.get(_DECODER)
    return found if isinstance(found, Mapping) else {}


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token


def _form(token: Any) -> Any:
    """Return an added token as its text and the flags that are set."""
    if not isinstance(token, Mapping):
        return token
    return {"content": token.get("content")} | {flag: True for flag in _FLAGS if token.get(flag)}


def _known(whole: Mapping[str, Any]) -> set[str] | None:
    """Return the special tokens of tokenizer.json; None where it does not tell."""
    if "added_tokens" not in whole:
        return None
    return {str(one.get("content")) for one in whole["added_tokens"] if one.get("special")}


def _roles(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tokenizer.json has for each role, as far as it tells."""
    model = whole.get("model") or {}
    roles = _around(whole.get("post_processor"))
    if model.get("unk_token"):
        roles["unk_token"] = model["unk_token"]
    vocabulary, unknown = model.get("vocab") or {}, model.get("unk_id")
    if isinstance(vocabulary, list):  # Unigram: tokens and scores
        vocabulary = [token for token, _ in vocabulary]
        if unknown is not None:
            roles["unk_token"] = vocabulary[unknown]
    known = _known(whole) or set()
    for name in ("mask_token", "pad_token"):
        usual = (BERT_TOKENS[name], ROBERTA_TOKENS[name])
        found = [one for one in usual if one in known] or [
            one for one in usual if one in vocabulary
        ]
        if found:
            roles[name] = found[0]
    if padding := whole.get("padding"):
        roles["pad_token"] = padding.get("pad_token")
    return roles


def _around(processor: Any) -> dict[str, Any]:
    """Return the first and the last token that a post-processor puts around one text."""
    if not isinstance(processor, Mapping):
        return {}
    if "cls" in processor and "sep" in processor:  # RobertaProcessing and BertProcessing
        return {"cls_token": processor["cls"][0], "sep_token": processor["sep"][0]}
    for part in processor.get("processors", ()):
        if found := _around(part):
            return found
    pieces, tokens = processor.get("single", ()), processor.get("special_tokens", {})
    names = [(piece.get("SpecialToken") or {}).get("id") for piece in pieces]
    texts = [name and (tokens.get(name, {}).get("tokens") or [name])[0] for name in names]
    ends = {"cls_token": texts[0], "sep_token": texts[-1]} if texts else {}
    return {role: text for role, text in ends.items() if text}
