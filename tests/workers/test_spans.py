"""Question answering: losses over windows, and the best span of all windows of a question."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForQuestionAnswering

from search_spaces.questions import Question
from search_spaces.token_sources import SquadSource
from search_spaces.trial import TaskIdentity
from search_spaces.windows import make_windows
from search_spaces.word_pieces import word_pieces
from tests.workers.backbones import (
    FAMILIES,
    LENGTHS,
    eager_config,
    padded_inputs,
    pairs_of_segments,
    save_backbone,
)
from tests.workers.requests import start_weights
from tests.workers.token_tasks import make_word_model
from workers.batches import Layout, make_batch
from workers.classifier import Classifier
from workers.metrics import PredictionsNotFiniteError
from workers.spans import NO_SPAN, Spans
from workers.token_tables import window_table, write_questions
from workers.tokens import TokenSplit, WindowSplit

TASK = TaskIdentity(
    problem="span",
    num_labels=2,
    metric="squad_f1",
    data_sha256="0" * 64,
    select_sha256="0" * 64,
    num_train_examples=len(LENGTHS),
    max_length=16,
)
NAMES = ("squad_f1", "exact_match")
CONTEXT = "anna sees the tree . boris sees the\u00a0river . clara sees the stone ."


def question(text: str, answer: str, *others: str, context: str = CONTEXT) -> Question:
    golds = tuple((gold, context.index(gold)) for gold in (answer, *others))
    return Question(text, text, context, golds)


def window_split(folder: Path, questions: list[Question], max_length: int = 14) -> WindowSplit:
    """Return the windows of questions: 14 tokens, of which a step covers 4 of the context."""
    source = SquadSource(train="", report="", doc_stride=4, max_query_length=6)
    pieces = word_pieces(make_word_model(folder))
    table = window_table(make_windows(questions, pieces, max_length, source))
    write_questions(folder / "report.questions.json", questions)
    lengths = [len(ids) for ids in table["ids"].to_pylist()]
    return WindowSplit(
        ids=np.concatenate(table["ids"].to_pylist()).astype(np.int32),
        types=np.concatenate(table["types"].to_pylist()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.stack([table["label"].to_numpy(), table["last"].to_numpy()], axis=1),
        num_truncated=0,
        chars=np.concatenate(table["chars"].to_pylist()).reshape(-1, 2).astype(np.int32),
        can_begin=np.concatenate(table["can_begin"].to_pylist()),
        question_of=table["question"].to_numpy(),
        questions=folder / "report.questions.json",
    )


def perfect_rows(split: WindowSplit, spans: Spans) -> np.ndarray:
    """Return the rows of a model that is sure of each window's labels."""
    rows = np.zeros((len(split), 3))
    for index in range(len(split)):
        batch = spans.batch(split, np.array([index]), "unpadded", 0)
        logits = torch.zeros(batch.num_tokens, 2)
        for side in (0, 1):
            logits[int(split.labels[index, side]), side] = 9.0
        rows[index] = spans.rows(logits, batch, split)
    return rows


@pytest.mark.parametrize("layout", ["unpadded", "padded"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits_loss_and_gradients_equal_transformers_own(
    tmp_path: Path, family: str, layout: Layout
) -> None:
    folder = save_backbone(tmp_path, family, initializer_range=0.2)
    classifier = Classifier(folder, TASK, layout).eval()
    start_weights(classifier, folder, seed=1)
    plain_split = pairs_of_segments(FAMILIES[family][2]["type_vocab_size"])
    labels = np.array([[min(i, n - 1), n - 1] for i, n in enumerate(LENGTHS)])
    split = TokenSplit(**{**vars(plain_split), "labels": labels})
    spans, indices = Spans(20, 30), np.arange(len(LENGTHS))
    batch = spans.batch(split, indices, layout, key=0)
    ours = classifier(batch)
    assert ours.shape == (sum(LENGTHS), 2)
    loss = spans.summed_loss(ours, batch) / spans.num_counted(split, indices, 0)
    loss.backward()

    plain = AutoModelForQuestionAnswering.from_config(eager_config(classifier)).eval()
    plain.load_state_dict(classifier.model.state_dict())
    inputs = padded_inputs(split, batch.indices, plain.config.pad_token_id)
    places = torch.from_numpy(labels[batch.indices])
    theirs = plain(**inputs)
    logits = torch.stack([theirs.start_logits, theirs.end_logits], dim=-1)
    real = inputs["attention_mask"].bool()
    shown = logits.masked_fill(~real[..., None], float("-inf"))  # padding is no answer
    wanted = sum(torch.nn.functional.cross_entropy(shown[..., s], places[:, s]) for s in (0, 1)) / 2
    assert isinstance(wanted, torch.Tensor)
    wanted.backward()
    assert float((ours - logits[real]).detach().abs().max()) <= 1e-5
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), abs=1e-5)
    expected = {name: weights.grad for name, weights in plain.named_parameters()}
    for name, weights in classifier.model.named_parameters():
        assert weights.grad is not None, name
        scale = max(1.0, float(expected[name].abs().max()))
        assert float((weights.grad - expected[name]).abs().max()) <= 1e-5 * scale, name


def test_windows_are_the_references(tmp_path: Path) -> None:
    """Each holds question and context; steps of doc_stride; answers cut by a border are no answer.

    The question has 5 tokens, the context 15, so that a window has room for 14 - 3 - 5 = 6.
    """
    split = window_split(tmp_path, [question("what does anna see ?", "tree . boris")])
    assert len(split) == 4  # from 0, 4, 8 and 12: the last holds what remains
    assert np.diff(split.offsets).tolist() == [14, 14, 14, 11]
    first = 7  # of a window's context
    assert split.labels.tolist() == [[first + 3, first + 5], [0, 0], [0, 0], [0, 0]]
    chars = split.chars[: split.offsets[1]]
    assert (chars[:first] == -1).all() and (chars[-1] == -1).all()
    assert [CONTEXT[a:b] for a, b in chars[first:-1]] == CONTEXT.split()[:6]
    types = split.types[: split.offsets[1]]
    assert types.tolist() == [0] * 7 + [1] * 7
    whole = window_split(tmp_path, [question("what does anna see ?", "tree")], max_length=40)
    assert len(whole) == 1


def test_answers_are_read_back_from_any_window(tmp_path: Path) -> None:
    """At a window's border, over a no-break space, and where only one of several golds is told."""
    questions = [
        question("what does anna see ?", "tree"),
        question("who sees the river ?", "boris"),  # the last token of the first window
        question("what does boris see ?", "the\u00a0river"),
        question("what does clara see ?", "stone", "the stone ."),
        question("who ?", "stone ."),  # the end of the context
    ]
    split, spans = window_split(tmp_path, questions), Spans(20, 30)
    score = spans.score(perfect_rows(split, spans), split, NAMES)
    assert score.metrics == {"squad_f1": 1.0, "exact_match": 1.0}
    assert (score.num_examples, score.constant_predictor) == (len(questions), False)


def test_the_best_window_of_a_question_answers(tmp_path: Path) -> None:
    """Scores of windows compete; the metric is the mean over questions, not windows."""
    questions = [question("what ?", "tree"), question("who ?", "clara")]
    split, spans = window_split(tmp_path, questions), Spans(20, 30)
    rows = perfect_rows(split, spans)
    right = spans.score(rows, split, NAMES)
    assert right.metrics["exact_match"] == 1.0
    wrong = rows.copy()
    last_of_first = int(np.flatnonzero(split.question_of == 0)[-1])
    wrong[last_of_first] = (99.0, CONTEXT.index("stone"), CONTEXT.index("stone") + 5)
    assert spans.score(wrong, split, NAMES).metrics["exact_match"] == 0.5
    wrong[last_of_first, 0] = np.nan
    with pytest.raises(PredictionsNotFiniteError):
        spans.score(wrong, split, NAMES)


def test_only_allowed_spans_are_answers(tmp_path: Path) -> None:
    """Not in the question, not backwards, not too long; else the window says nothing."""
    split = window_split(tmp_path, [question("what does anna see ?", "tree")])
    batch = make_batch(split, np.array([0]), "span")

    def best(spans: Spans, start: dict[int, float], end: dict[int, float]) -> list[float]:
        logits = torch.zeros(batch.num_tokens, 2)
        for side, given in enumerate((start, end)):
            for place, value in given.items():
                logits[place, side] = value
        return spans.rows(logits, batch, split)[0].tolist()  # type: ignore[no-any-return]

    tree = CONTEXT.index("tree")
    assert best(Spans(20, 30), {10: 5.0, 3: 9.0}, {10: 5.0}) == [10.0, tree, tree + 4]
    assert best(Spans(20, 30), {10: 5.0}, {10: 4.0, 9: 6.0}) == [9.0, tree, tree + 4]
    short = best(Spans(20, 2), {7: 5.0, 9: 3.0}, {10: 5.0})
    assert CONTEXT[int(short[1]) : int(short[2])] == "the tree" and short[0] == 8.0
    assert best(Spans(1, 30), {0: 5.0}, {0: 5.0}) == [NO_SPAN, 0.0, 0.0]


def test_an_answer_begins_where_the_context_is_fullest(tmp_path: Path) -> None:
    """Of two windows that show a token, the one with more around it may say that it begins there.

    Windows begin at context tokens 0, 4, 8 and 12; token 5 ends the first one, where nothing stands
    to its right, and is the second of the second one.
    """
    split, spans = window_split(tmp_path, [question("what does anna see ?", "tree")]), Spans(20, 30)
    allowed = [
        split.can_begin[split.offsets[window] : split.offsets[window + 1]].nonzero()[0] - 7
        for window in range(4)
    ]
    assert [sorted(places + 4 * w) for w, places in enumerate(allowed)] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8],
        [9, 10, 11, 12],
        [13, 14],
    ]
    best = []
    for window, place in ((0, 12), (1, 8)):  # token 5 in both
        batch = spans.batch(split, np.array([window]), "unpadded", 0)
        logits = torch.zeros(batch.num_tokens, 2)
        logits[place] = 9.0
        best.append(spans.rows(logits, batch, split)[0].tolist())
    assert best[0][0] == 9.0  # another beginning, or another end
    boris = CONTEXT.index("boris")
    assert best[1] == [18.0, boris, boris + len("boris")]


def test_contexts_are_written_once(tmp_path: Path) -> None:
    split = window_split(tmp_path, [question("what ?", "tree"), question("who ?", "clara")])
    data = json.loads(split.questions.read_text())
    assert data["contexts"] == [CONTEXT] and data["context_of"] == [0, 0]
