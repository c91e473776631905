"""Scores are those of the trained weights, without dropout, for every primary metric."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import BertForSequenceClassification

from cluster.local_executor import LocalExecutor
from search_spaces.contracts import Compute, TrialRequest
from tests.workers.requests import facts, request
from tests.workers.running import losses_of, run
from workers.classifier import Classifier
from workers.engine import Engine, Engines
from workers.evaluate import num_at_once
from workers.finetune import Shard
from workers.labelled import Labelled
from workers.metrics import accuracy, f1, matthews
from workers.tokens import TokenSplit, token_splits

BY_HAND: dict[str, Any] = {
    "accuracy": accuracy,
    "matthews": matthews,
    "f1": f1,
    "pearson": lambda predicted, labels: stats.pearsonr(predicted, labels).statistic,
}


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(Compute())
    yield executor
    executor.close()


def plain_logits(classifier: Classifier, split: TokenSplit) -> np.ndarray[Any, Any]:
    """Return transformers' own logits of one example after the other, without dropout."""
    config = copy.deepcopy(classifier.model.config)  # the classifier is a warm engine's
    config._attn_implementation = "eager"
    plain = BertForSequenceClassification(config).eval()
    plain.load_state_dict(classifier.model.state_dict())
    rows = [split.ids[a:b] for a, b in zip(split.offsets, split.offsets[1:], strict=False)]
    with torch.no_grad():
        logits = [plain(torch.from_numpy(row.astype(np.int64))[None]).logits[0] for row in rows]
    return torch.stack(logits).numpy()


def splits_of(wanted: TrialRequest) -> dict[str, TokenSplit]:
    spec = wanted.spec
    folder, cache = Path(wanted.model.folder), Path(wanted.cache_folder)
    return token_splits(spec.model, folder, spec.task, wanted.task, cache)


@pytest.mark.parametrize("metric", sorted(BY_HAND))
def test_scores_are_those_of_the_trained_weights(
    tmp_path: Path, executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    """For each primary metric: a trial with dropout 0.5 scores what its weights score by hand."""
    problem, label = ("regression", "score") if metric == "pearson" else ("classification", "label")
    model, task = facts(tmp_path, metric=metric, problem=problem, label=label)
    trained: list[Classifier] = []

    def kept(engines: Engines, wanted: TrialRequest) -> Engine:
        engine = original(engines, wanted)
        trained.append(engine.classifier)
        return engine

    original = Engines.engine
    monkeypatch.setattr(Engines, "engine", kept)
    changes: dict[str, Any] = {"train_steps": 120, "lr_horizon_steps": 120, "learning_rate": 1e-2}
    changes |= {"hidden_dropout": 0.5, "attention_dropout": 0.5}
    wanted = request(tmp_path, model, task, **changes)
    done = run(executor, wanted)
    assert done.metric == metric
    tokens = splits_of(wanted)
    for name in ("select", "report"):
        labels, logits = tokens[name].labels, plain_logits(trained[0], tokens[name])
        predicted = logits[:, 0] if problem == "regression" else logits.argmax(axis=1)
        labels = labels if problem == "regression" else labels.astype(np.int64)
        expected = BY_HAND[metric](predicted, labels)
        assert done.scores[name].metrics[metric] == pytest.approx(expected, abs=1e-5)
    backwards = BY_HAND[metric](predicted[::-1], labels)  # an order lost on the way would show
    assert abs(expected - backwards) > 0.05


def test_a_halved_micro_batch_changes_no_score(tmp_path: Path, executor: LocalExecutor) -> None:
    """What a retry after out of memory computes: the same batches, key and scores, less at once."""
    model, task = facts(tmp_path)
    whole = request(tmp_path, model, task, batch_size=16)
    small = request(tmp_path, model, task, batch_size=16, compute=Compute(micro_batch_size=1))
    assert whole.spec.key == small.spec.key
    first, second = run(executor, whole), run(executor, small)
    assert (first.numerics.micro_batch_size, second.numerics.micro_batch_size) == (16, 1)
    assert losses_of(second) == pytest.approx(losses_of(first), abs=1e-6)
    assert second.scores == first.scores


def test_only_very_small_micro_batches_make_evaluation_smaller() -> None:
    problem = Labelled("classification")
    sizes = [num_at_once(problem, Shard(micro_batch_size=size)) for size in (0, 32, 8, 4, 1)]
    assert sizes == [128, 128, 128, 64, 16]
