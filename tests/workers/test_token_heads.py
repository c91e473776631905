"""Heads that read every token compute on concatenated examples what they compute on padded ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
    RobertaForMaskedLM,
    RobertaForQuestionAnswering,
    RobertaForTokenClassification,
)

from tests.workers.backbones import (
    LENGTHS,
    TASK,
    eager_config,
    padded_inputs,
    pairs_of_segments,
    save_backbone,
)
from tests.workers.requests import start_weights
from workers.batches import make_batch
from workers.classifier import Classifier

HEADS: dict[str, tuple[Any, int, Callable[[Any], Any]]] = {
    "bert token classes": (BertForTokenClassification, 3, lambda model: model.classifier),
    "bert answers": (BertForQuestionAnswering, 2, lambda model: model.qa_outputs),
    "bert words": (BertForMaskedLM, 2, lambda model: model.cls),
    "roberta token classes": (RobertaForTokenClassification, 3, lambda model: model.classifier),
    "roberta answers": (RobertaForQuestionAnswering, 2, lambda model: model.qa_outputs),
    "roberta words": (RobertaForMaskedLM, 2, lambda model: model.lm_head),
}


def logits_of(output: Any) -> torch.Tensor:
    """Return what a model says of each token; start and end of an answer are its two classes."""
    if hasattr(output, "logits"):
        return output.logits  # type: ignore[no-any-return]
    return torch.stack([output.start_logits, output.end_logits], dim=-1)


def token_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of all tokens, with classes that each place has by its number."""
    wanted = torch.arange(len(logits)) % logits.shape[1]
    return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")


@pytest.mark.parametrize("num_types", [1, 2], ids=["single texts", "pairs"])
@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_token_head_sees_the_hidden_states_of_padded_examples(
    tmp_path: Path, head: str, num_types: int
) -> None:
    """Logits of every real token, and all gradients of a summed token loss in the backbone."""
    model_class, num_labels, part = HEADS[head]
    folder = save_backbone(tmp_path, head.split()[0], type_vocab_size=2, initializer_range=0.2)
    classifier = Classifier(folder, TASK).eval()
    start_weights(classifier, folder, seed=1)
    split = pairs_of_segments(num_types)
    batch = make_batch(split, np.arange(len(LENGTHS)), "classification")

    config = eager_config(classifier, num_labels=num_labels, tie_word_embeddings=False)
    torch.manual_seed(2)
    plain = model_class(config).eval()
    backbone = getattr(plain, classifier.family.prefix)
    missing, unknown = backbone.load_state_dict(classifier.backbone.state_dict(), strict=False)
    assert missing == [] and all(name.startswith("pooler.") for name in unknown)

    ours = part(plain)(classifier.encode(batch))
    inputs = padded_inputs(split, batch.indices, config.pad_token_id)
    theirs = logits_of(plain(**inputs))[inputs["attention_mask"].bool()]
    assert ours.shape == theirs.shape == (sum(LENGTHS), theirs.shape[1])
    assert float(theirs.detach().std(dim=0).min()) > 0.05  # tokens differ by far more than allowed
    assert float((ours - theirs).detach().abs().max()) <= 1e-5

    token_loss(ours).backward()
    plain.zero_grad()  # the head's own gradients: it served both
    token_loss(theirs).backward()
    compared = {name: weights.grad for name, weights in backbone.named_parameters()}
    for name, weights in classifier.backbone.named_parameters():
        if name.startswith("pooler."):
            assert weights.grad is None
            continue
        assert weights.grad is not None, name
        scale = max(1.0, float(compared[name].abs().max()))
        assert float((weights.grad - compared[name]).abs().max()) <= 1e-5 * scale, name
