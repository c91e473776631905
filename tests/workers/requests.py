"""Small real requests: a tiny random BERT on disk, a tiny two-class task, one trial of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from search_spaces.contracts import ArtifactRef, Compute, TrialRequest
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.recipes import Recipe
from search_spaces.resolve import TaskFacts, resolve_task
from search_spaces.splits import HashSelect
from search_spaces.task_specs import TaskSpec
from search_spaces.trial import MaskSource, OtherStart, Outputs, SavedWeights, TrialSpec
from workers.classifier import Classifier, draw_head, head_parameters, theta0_values

WORDS = [
    "the",
    "a",
    "good",
    "bad",
    "fine",
    "poor",
    "film",
    "plot",
    "cast",
    "is",
    "was",
    "very",
    "not",
    "so",
]


def make_model(folder: Path, seed: int = 0, config: BertConfig | None = None) -> Path:
    """Save a BERT with random weights, by default of two layers, and a word tokenizer."""
    torch.manual_seed(seed)
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    ).save_pretrained(str(folder))
    config = config or BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(str(folder))
    return folder


def make_task(folder: Path, num_train: int = 70) -> Path:
    """Write a two-class task: 'good' or 'fine' occurs; ``score`` is their share of the words."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(7)
    for split, num in (("train", num_train), ("dev", 30)):
        lines = []
        for index in range(num):
            length = int(torch.randint(2, 9, (1,), generator=generator))
            picks = torch.randint(0, len(WORDS), (length,), generator=generator)
            words = [WORDS[pick] for pick in picks]
            label = "pos" if {"good", "fine"} & set(words) else "neg"
            score = sum(word in ("good", "fine") for word in words) / length
            text = " ".join([*words, "so"] * (1 + index % 2))
            lines.append(json.dumps({"text": text, "label": label, "score": score}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def facts(root: Path, num_train: int = 70, **options: Any) -> tuple[ModelFacts, TaskFacts]:
    """Make and resolve the model and the task below a folder; options are its source's."""
    model = resolve_model(ModelSpecYaml(name="tiny", source=str(make_model(root / "model"))))
    data = make_task(root / "data", num_train)
    source = {
        "kind": "files",
        "train": str(data / "train.jsonl"),
        "report": str(data / "dev.jsonl"),
        "text": "text",
        "label": "label",
        "problem": "classification",
    } | options
    task = TaskSpec.model_validate({"name": "toy", "source": source, "max_length": 24})
    return model, resolve_task(task, HashSelect())


def recipe(**changes: Any) -> Recipe:
    """Return a short recipe without dropout."""
    values: dict[str, Any] = {
        "train_steps": 8,
        "lr_horizon_steps": 8,
        "warmup_steps": 2,
        "batch_size": 16,
        "learning_rate": 5e-3,
        "weight_decay": 0.01,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }
    return Recipe(**(values | changes))


def request(
    root: Path,
    model: ModelFacts,
    task: TaskFacts,
    *,
    mask: MaskSource | None = None,
    mask_file: ArtifactRef | None = None,
    start: OtherStart | SavedWeights | None = None,
    start_file: ArtifactRef | None = None,
    outputs: Outputs | None = None,
    compute: Compute | None = None,
    seed: int = 1,
    attempt: str = "a001-0000abcd",
    **changes: Any,
) -> TrialRequest:
    """Return a request to run one trial of the toy task."""
    spec = TrialSpec(
        model=model.identity,
        task=task.identity,
        recipe=recipe(**changes),
        seed=seed,
        mask=mask,
        start=start,
        code_version=1,
    )
    return TrialRequest(
        spec=spec,
        label="toy",
        attempt=attempt,
        attempt_uri=str(root / "store" / "results" / spec.key / "attempts" / attempt),
        outputs=outputs or Outputs(),
        model=model.place,
        task=task.place,
        mask_file=mask_file,
        start_file=start_file,
        cache_folder=str(root / "cache"),
        compute=compute or Compute(),
    )


def start_weights(classifier: Classifier, folder: Path, seed: int) -> None:
    """Set a classifier's weights to theta_0 and a head drawn from a seed."""
    theta0, backbone = theta0_values(classifier, folder), classifier.backbone_parameters()
    head = head_parameters(classifier, theta0)
    drawn = draw_head(classifier, head, seed)
    with torch.no_grad():
        for name, values in theta0.items():
            backbone[name].copy_(values)
        for name, values in drawn.items():
            head[name].copy_(values)
