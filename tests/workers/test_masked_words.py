"""Masked language modelling: what is hidden, what is computed, what is scored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM, RobertaConfig, RobertaForMaskedLM

from search_spaces.heads import iter_word_head, word_head_sha256
from search_spaces.trial import TaskIdentity
from search_spaces.word_pieces import Frame, WordPieces, word_pieces
from tests.workers.backbones import eager_config, padded_inputs, save_backbone
from tests.workers.requests import start_weights
from tests.workers.token_tasks import MASK_ID, make_word_model
from workers.batches import Batch, Layout
from workers.classifier import Classifier, draw_head, head_parameters
from workers.masked_words import MaskedWords
from workers.metrics import PredictionsNotFiniteError
from workers.tokens import TokenSplit

TASK = TaskIdentity(
    problem="masked-lm",
    num_labels=1,
    metric="masked_accuracy",
    data_sha256="0" * 64,
    select_sha256="0" * 64,
    num_train_examples=4,
    max_length=16,
)
NAMES = ("masked_accuracy", "perplexity")


def blocks(num: int, length: int = 12, num_words: int = 20) -> TokenSplit:
    """Return random blocks between [CLS] (2) and [SEP] (3)."""
    ids = np.random.default_rng(3).integers(5, num_words, (num, length)).astype(np.int32)
    ids[:, 0], ids[:, -1] = 2, 3
    return TokenSplit(
        ids=ids.ravel(),
        types=np.zeros(ids.size, np.int32),
        offsets=np.arange(num + 1) * length,
        labels=np.zeros(num),
        num_truncated=0,
    )


class Pieces(WordPieces):
    """A vocabulary of some size without a tokenizer."""

    num_words = 20


PIECES = Pieces(None, Frame(((2,), (3,)), ((0,), (0,)), (0,)), Frame((), (), ()), MASK_ID)  # type: ignore[arg-type]


def drawn(words: MaskedWords, split: TokenSplit, indices: list[int], key: int) -> dict[int, Any]:
    """Return (ids, places, labels) of each block as a batch has them."""
    batch = words.batch(split, np.array(indices), "unpadded", key)
    assert batch.places is not None
    found = {}
    for index, begin, end in zip(batch.indices, batch.starts, batch.starts[1:], strict=False):
        inside = (batch.places >= begin) & (batch.places < end)
        places = (batch.places[inside] - begin).tolist()
        ids, labels = batch.ids[0, begin:end].tolist(), batch.labels[inside].tolist()
        found[int(index)] = ids, places, labels
    return found


@settings(deadline=None)
@given(order=st.permutations(range(6)), cut=st.integers(1, 5), key=st.integers(0, 2**64 - 1))
def test_what_is_hidden_depends_on_block_and_key_alone(
    order: list[int], cut: int, key: int
) -> None:
    """Neither the batch nor the micro-batch nor the order counts, and the counts add up."""
    split, words = blocks(6), MaskedWords(0.3, PIECES)
    whole = drawn(words, split, order, key)
    assert drawn(words, split, order[:cut], key) | drawn(words, split, order[cut:], key) == whole
    num = sum(len(places) for _, places, _ in whole.values())
    assert words.num_counted(split, np.array(order), key) == max(1, num)
    for index, (ids, places, labels) in whole.items():
        before = split.ids[split.offsets[index] : split.offsets[index + 1]].tolist()
        assert [before[place] for place in places] == labels
        assert not {0, len(before) - 1} & set(places)  # never the special tokens
        assert all(ids[i] == before[i] for i in range(len(before)) if i not in places)


def test_shares_are_those_of_the_reference() -> None:
    """15% are guessed: of these 80% are the mask, 10% another token, 10% as they were."""
    split = blocks(400, length=202)
    batch = MaskedWords(0.15, PIECES).batch(split, np.arange(400), "unpadded", key=7)
    assert batch.places is not None
    num, now = len(batch.places), batch.ids[0][batch.places]
    assert num / (400 * 200) == pytest.approx(0.15, abs=0.005)
    assert float((now == MASK_ID).float().mean()) == pytest.approx(0.8 + 0.1 / 20, abs=0.015)
    # another token is by chance the same one in 1 of 20
    assert float((now == batch.labels).float().mean()) == pytest.approx(0.1 + 0.1 / 20, abs=0.01)
    other = MaskedWords(0.15, PIECES).batch(split, np.arange(400), "unpadded", key=8)
    assert other.places is not None and not torch.equal(other.places[:50], batch.places[:50])


@pytest.mark.parametrize("layout", ["unpadded", "padded"])
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "camembert"])
def test_logits_loss_and_gradients_equal_transformers_own(
    tmp_path: Path, family: str, layout: Layout
) -> None:
    """The hidden places alone are read, and the word embedding gets the decoder's gradient too."""
    folder = save_backbone(tmp_path, family, initializer_range=0.2)
    classifier = Classifier(folder, TASK, layout).eval()
    start_weights(classifier, folder, seed=1)
    split = blocks(4)
    words = MaskedWords(0.3, PIECES)
    batch = words.batch(split, np.arange(4), layout, key=5)
    ours = classifier(batch)
    assert batch.places is not None and ours.shape == (len(batch.places), 40)
    loss = words.summed_loss(ours, batch) / len(ours)
    loss.backward()

    plain = AutoModelForMaskedLM.from_config(eager_config(classifier)).eval()
    plain.load_state_dict(classifier.model.state_dict())
    hidden = words.batch(split, np.arange(4), "unpadded", key=5)
    shown = TokenSplit(
        hidden.ids[0].numpy().astype(np.int32), split.types, split.offsets, split.labels, 0
    )
    inputs = padded_inputs(shown, np.arange(4), plain.config.pad_token_id)
    labels = torch.full((4 * 12,), -100)
    labels[batch.places] = batch.labels
    theirs = plain(**inputs, labels=labels.view(4, 12))
    theirs.loss.backward()
    assert float((ours - theirs.logits.flatten(0, 1)[batch.places]).detach().abs().max()) <= 1e-5
    assert float(loss) == pytest.approx(float(theirs.loss), abs=1e-5)
    expected = {name: weights.grad for name, weights in plain.named_parameters()}
    for name, weights in classifier.model.named_parameters():
        found, wanted = weights.grad, expected[name]
        assert found is not None and wanted is not None, name
        assert float((found - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


def test_a_batch_without_hidden_words_has_loss_zero(tmp_path: Path) -> None:
    """It divides by no zero, and its gradients are zero."""
    folder = save_backbone(tmp_path, "bert")
    classifier = Classifier(folder, TASK)
    start_weights(classifier, folder, seed=1)
    words, split = MaskedWords(1e-9, PIECES), blocks(2)
    batch = words.batch(split, np.arange(2), "unpadded", key=1)
    assert batch.places is not None and len(batch.places) == 0
    assert words.num_counted(split, np.arange(2), key=1) == 1
    loss = words.summed_loss(classifier(batch), batch)
    loss.backward()
    assert float(loss) == 0.0
    grads = [w.grad for w in classifier.parameters() if w.grad is not None]
    assert grads and not any(grad.any() for grad in grads)


def test_scores_are_taken_over_all_hidden_words() -> None:
    """Not over blocks: one has a single hidden word, another four."""
    words, split = MaskedWords(0.3, PIECES), blocks(2, length=8)
    logits = torch.full((5, 20), 0.0)
    labels = torch.tensor([5, 6, 7, 8, 9])
    for place, guess in enumerate([5, 6, 1, 1, 1]):
        logits[place, guess] = 4.0
    base = words.batch(split, np.arange(2), "unpadded", key=1)
    batch = Batch(**{**vars(base), "labels": labels, "places": torch.tensor([1, 9, 10, 11, 12])})
    rows = words.rows(logits, batch, split)
    assert rows[:, :2].tolist() == [[1, 1], [4, 1]] and rows[:, 3].tolist() == [5, -1]
    score = words.score(rows, split, NAMES)
    assert score.metrics["masked_accuracy"] == pytest.approx(2 / 5)
    mean = float(torch.nn.functional.cross_entropy(logits, labels))
    assert score.metrics["perplexity"] == pytest.approx(math.exp(mean))
    assert (score.num_examples, score.constant_predictor) == (5, False)
    constant = words.rows(logits[:1].repeat(5, 1), batch, split)
    assert words.score(constant, split, NAMES).constant_predictor
    rows[0, 2] = np.nan
    with pytest.raises(PredictionsNotFiniteError, match="1 of 2 predictions are missing"):
        words.score(rows, split, NAMES)


def test_a_huge_loss_is_a_finite_perplexity() -> None:
    rows = np.array([[1.0, 0.0, 1e6, 3.0]])
    score = MaskedWords(0.3, PIECES).score(rows, blocks(1), NAMES)
    assert math.isfinite(score.metrics["perplexity"])


def test_the_checkpoints_head_is_found_or_drawn(tmp_path: Path) -> None:
    """BERT's and RoBERTa's are read by name; a backbone alone has none; scales start at 1."""
    folder = make_word_model(tmp_path / "bert")
    names = [name for name, _ in iter_word_head(folder, "bert")]
    classifier = Classifier(folder, TASK)
    head = head_parameters(classifier, classifier.backbone_parameters())
    assert sorted(head) == names and len(names) == 5
    assert len(word_head_sha256(folder, "bert")) == 64
    config = RobertaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    RobertaForMaskedLM(config).save_pretrained(str(tmp_path / "roberta"))
    found = dict(iter_word_head(tmp_path / "roberta", "roberta"))
    roberta = Classifier(tmp_path / "roberta", TASK)
    assert set(found) == set(head_parameters(roberta, roberta.backbone_parameters()))
    bare = save_backbone(tmp_path / "bare", "bert")
    assert word_head_sha256(bare, "bert") == "" == word_head_sha256(folder, "electra")
    drawn = draw_head(classifier, head, seed=1)
    scales = [name for name in drawn if name.endswith("LayerNorm.weight")]
    assert [float(drawn[name].min()) for name in scales] == [1.0]
    assert not drawn["cls.predictions.bias"].any()


def test_a_tokenizers_frame_and_mask_are_read(tmp_path: Path) -> None:
    pieces = word_pieces(make_word_model(tmp_path))
    assert pieces.single == Frame(((2,), (3,)), ((0,), (0,)), (0,))
    assert pieces.pair == Frame(((2,), (3,), (3,)), ((0,), (0,), (1,)), (0, 1))
    assert pieces.pair.num_specials == 3
    assert pieces.mask_id == MASK_ID
