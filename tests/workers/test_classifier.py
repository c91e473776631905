"""The classifier on concatenated tokens computes what transformers computes on padded ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import (
    AutoModelForSequenceClassification,
)

from search_spaces.errors import SpecError
from search_spaces.prunable import backbone_names
from tests.workers.backbones import (
    FAMILIES,
    LENGTHS,
    TASK,
    eager_config,
    padded_inputs,
    pairs_of_segments,
    save_backbone,
)
from tests.workers.requests import start_weights
from workers.batches import Layout, make_batch
from workers.classifier import Classifier, theta0_values
from workers.labelled import summed_loss


@pytest.mark.parametrize("lengths", [LENGTHS, (1, 1, 1), (4,)], ids=["mixed", "one token", "one"])
@pytest.mark.parametrize("layout", ["unpadded", "padded"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits_loss_and_gradients_equal_padded_ones(
    tmp_path: Path, family: str, layout: Layout, lengths: tuple[int, ...]
) -> None:
    """In each family and layout, segments, positions and a projected embedding included.

    Also for examples of a single token, and for a batch of a single example.
    """
    folder = save_backbone(tmp_path, family)
    classifier = Classifier(folder, TASK, layout).eval()
    start_weights(classifier, folder, seed=1)
    split = pairs_of_segments(FAMILIES[family][2]["type_vocab_size"], lengths)
    batch = make_batch(split, np.arange(len(lengths)), "classification", layout)
    ours = classifier(batch)
    loss = summed_loss(ours, batch.labels, "classification") / len(lengths)
    loss.backward()

    plain = AutoModelForSequenceClassification.from_config(eager_config(classifier)).eval()
    plain.load_state_dict(classifier.model.state_dict())
    inputs = padded_inputs(split, batch.indices, plain.config.pad_token_id)
    theirs = plain(**inputs, labels=batch.labels)
    theirs.loss.backward()
    assert ours.shape == (len(lengths), TASK.num_labels)
    assert float((ours - theirs.logits).detach().abs().max()) <= 1e-5
    if len(lengths) > 1:  # the examples differ by far more than allowed
        assert float(theirs.logits.detach().std(dim=0).min()) > 0.05
    assert abs(float(loss - theirs.loss)) <= 1e-5
    expected = {name: weights.grad for name, weights in plain.named_parameters()}
    for name, weights in classifier.model.named_parameters():
        assert weights.grad is not None, name
        assert float((weights.grad - expected[name]).abs().max()) <= 1e-5, name


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_names_checked_before_a_run_are_those_of_transformers(
    tmp_path: Path, family: str
) -> None:
    """A family's backbone has exactly the listed parameters, and a pooler where it reads one."""
    classifier = Classifier(save_backbone(tmp_path, family), TASK)
    names = set(classifier.backbone_parameters())
    poolers = {name for name in names if name.startswith("pooler.")}
    assert names - poolers == backbone_names(2, projects_embeddings=family == "electra")
    assert bool(poolers) is classifier.family.has_pooler


def test_a_backbone_is_loaded_whole_and_in_its_shapes(tmp_path: Path) -> None:
    """Missing layers are no head, and a tensor of another shape is not broadcast."""
    classifier = Classifier(save_backbone(tmp_path / "two", "bert"), TASK)
    with pytest.raises(SpecError, match=r"lacks encoder\.layer\.1\..* and 13 more; it must hold"):
        theta0_values(classifier, save_backbone(tmp_path / "one", "bert", num_hidden_layers=1))
    narrow = save_backbone(tmp_path / "narrow", "bert", type_vocab_size=1)
    with pytest.raises(SpecError, match=r"has the shape \(1, 16\), but must have \(2, 16\)"):
        theta0_values(classifier, narrow)
