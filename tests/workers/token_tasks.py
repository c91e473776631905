"""Small tasks made of tokens: text with hidden words, and questions about short contexts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.resolve import resolve_task
from search_spaces.splits import HashSelect
from search_spaces.task_facts import TaskFacts
from search_spaces.task_specs import TaskSpec

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NAMES = ("anna", "boris", "clara", "david", "emma", "frank")
THINGS = ("tree", "river", "house", "stone", "cloud", "garden")
WORDS = (*NAMES, *THINGS, "the", "sees", "a", "who", "what", "does", "see", "?", ".", "##s")
MASK_ID = SPECIALS.index("[MASK]")


def save_tokenizer(folder: Path, specials: tuple[str, ...] = SPECIALS) -> int:
    """Save a word tokenizer as BERT's and return how many words it has."""
    vocabulary = {word: index for index, word in enumerate((*specials, *WORDS))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    given = {"mask_token": "[MASK]"} if "[MASK]" in specials else {}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", **given
    ).save_pretrained(str(folder))
    return len(vocabulary)


def make_word_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Save a BERT of two layers with random weights and a head for hidden words."""
    num_words = save_tokenizer(folder)
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "vocab_size": num_words,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    model = BertForMaskedLM(BertConfig(**(options | changes)))
    with torch.no_grad():  # as if trained: other than what is drawn anew
        model.cls.predictions.bias.normal_(generator=torch.Generator().manual_seed(seed))
    model.save_pretrained(str(folder))
    return folder


def sentences(num: int, seed: int) -> list[str]:
    """Return made-up sentences."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(0, len(NAMES) * len(THINGS), (num,), generator=generator).tolist()
    return [f"{NAMES[pick % len(NAMES)]} sees the {THINGS[pick // len(NAMES)]} ." for pick in picks]


def write_text(folder: Path, num_train: int = 150) -> dict[str, Any]:
    """Write a corpus and return its source."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, num, seed in (("train", num_train, 1), ("report", 40, 2)):
        (folder / f"{name}.txt").write_text("\n".join(sentences(num, seed)) + "\n")
    return {
        "kind": "text",
        "train": str(folder / "train.txt"),
        "report": str(folder / "report.txt"),
    }


def squad(num_contexts: int, seed: int) -> dict[str, Any]:
    """Return made-up questions in SQuAD's format: two about each context of three sentences."""
    articles = []
    lines = sentences(3 * num_contexts, seed)
    for index in range(num_contexts):
        context = " ".join(lines[3 * index : 3 * index + 3])
        name, _, _, thing, _ = lines[3 * index].split()
        pairs = ((f"what does {name} see ?", thing), (f"who sees the {thing} ?", name))
        rows = [
            {
                "id": f"{seed}-{index}-{number}",
                "question": question,
                "answers": [{"text": answer, "answer_start": context.index(answer)}],
            }
            for number, (question, answer) in enumerate(pairs)
        ]
        paragraphs = [{"context": context, "qas": rows}]
        articles.append({"title": f"{index}", "paragraphs": paragraphs})
    return {"version": "1.1", "data": articles}


def write_squad(folder: Path, num_contexts: int = 40) -> dict[str, Any]:
    """Write made-up questions and return their source; windows are shorter than the contexts."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, num, seed in (("train", num_contexts, 1), ("report", 10, 2)):
        (folder / f"{name}.json").write_text(json.dumps(squad(num, seed)))
    return {
        "kind": "squad",
        "train": str(folder / "train.json"),
        "report": str(folder / "report.json"),
        "doc_stride": 4,
        "max_query_length": 6,
    }


def token_facts(
    root: Path, source: dict[str, Any], max_length: int = 20, **changes: Any
) -> tuple[ModelFacts, TaskFacts]:
    """Resolve a word model below a folder and a task on it."""
    spec = ModelSpecYaml(name="tiny", source=str(make_word_model(root / "words", **changes)))
    model = resolve_model(spec)
    task = TaskSpec.model_validate({"name": "toy", "source": source, "max_length": max_length})
    return model, resolve_task(task, HashSelect(), {"tiny": model})


KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {"text": write_text, "squad": write_squad}
Toys = dict[str, tuple[ModelFacts, TaskFacts]]
