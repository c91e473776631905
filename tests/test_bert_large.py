"""BERT-large for real: a lineage of three trials through Ray, DeepSpeed, the store and MLflow.

The weights are random, and of its three steps a trial learns nothing: what is checked are exact
counts, proofs, memory and the lineage at this size. The dtype is bf16, emulated where the CPU has
no instructions for it.
"""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import BertConfig

from cluster.ray_executor import RayExecutor
from cluster.session import Session
from orchestrator.driver import run_sweep
from orchestrator.finishing import tracker_of
from orchestrator.journal import Journal
from orchestrator.policies import LadderPolicy
from orchestrator.queries import lineage
from orchestrator.requests import compute_of, request_maker
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from orchestrator.tracking_listener import TrackingListener
from search_spaces.contracts import TrialResult
from tests.workers.requests import WORDS, make_model
from workers.artifacts import read_artifact
from workers.mask_file import read_mask

NUM_PRUNABLE = 303_038_464  # 24 layers of 12 x 1024 x 1024, and the pooler
NUM_REMOVED = (90_911_539, 181_823_078)  # 30% and 60%, rounded
NUM_TENSORS = 391  # of the backbone: 24 layers of 16, embeddings of 5, the pooler's 2
BATCH, LENGTH, STEPS = 8, 128, 3
MAX_MEMORY_GIB = 16
LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}


def write_texts(root: Path) -> dict[str, str]:
    """Write a task whose texts are longer than the model reads; return its source."""
    draw = np.random.default_rng(1)
    for name, num in (("train", 40), ("report", 4)):
        rows = [
            {"text": " ".join(draw.choice(WORDS, 2 * LENGTH)), "label": "ab"[i % 2]}
            for i in range(num)
        ]
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {name: str(root / f"{name}.jsonl") for name in ("train", "report")}


def write_sweep(root: Path) -> Path:
    """Write model, data and a sweep."""
    model = make_model(root / "model", config=BertConfig(**LARGE))
    config = json.loads((model / "config.json").read_text())
    config["architectures"] = ["BertForPreTraining"]  # so that the pooler is prunable
    (model / "config.json").write_text(json.dumps(config))
    sweep = {
        "name": "large",
        "models": [{"name": "bert-large", "source": str(model)}],
        "tasks": [{"name": "toy", "source": {"kind": "files", **write_texts(root)}}],
        "seeds": [1, 2],  # a verdict needs two; only the first is run
        "schedule": {"kind": "levels", "levels": [0.3, 0.6]},
        "recipe": {
            "train_steps": STEPS,
            "batch_size": BATCH,
            "learning_rate": 1e-4,
            "dtype": "bf16",
        },
        "verdict": {"rule": "strict"},
        "resources": {"gangs": 1, "cpus_per_rank": 2},
        "retries": {"error": 0, "out_of_memory": 0, "infrastructure": 0},
        "store": f"{root}/store",
        "tracking": {"uri": f"sqlite:///{root}/mlflow.db", "experiment": "large"},
        "cache": f"{root}/cache",
    }
    path = root / "large.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def run_seed(context: SweepContext, seed: int, ray: Session) -> list[TrialResult]:
    """Run the trials of one seed and return their results, the dense one first."""
    trials = [trial for trial in context.trials if trial.main_role.seed == seed]
    store, spec = Store(context.spec.store), context.spec
    make_request = request_maker(spec, context.models, context.tasks, store, context.cache)
    said: list[str] = []
    listener = TrackingListener(tracker_of(context), spec, store, said.append)
    executor = RayExecutor(ray, compute_of(spec), 1)
    with Journal.open(context.journal_path, context.info, time.time()) as journal:
        outcome = run_sweep(
            trials,
            store,
            journal,
            executor,
            LadderPolicy(),
            {},
            listener,
            time.time,
            make_request,
        )
    assert outcome.succeeded, outcome.failures
    assert listener.close(), said
    results = {key: store.read(key) for key in (trial.key for trial in trials)}
    found = [result for result in results.values() if result is not None]
    return sorted(found, key=lambda one: one.input_mask.num_removed if one.input_mask else 0)


@pytest.mark.slow
@pytest.mark.ray
def test_bert_large_is_pruned_twice_by_the_whole_product(
    ray_session: Session, tmp_path: Path
) -> None:
    """Three steps, prune, rewind, twice: exact masks of 303,038,464 bits, proofs, under 16 GiB."""
    context = SweepContext.open(write_sweep(tmp_path))
    prunable = context.models["bert-large"].prunable
    assert (prunable.num_weights, len(prunable.names)) == (NUM_PRUNABLE, 145)
    results = run_seed(context, 1, ray_session)

    removed = (0, *NUM_REMOVED)
    assert [len(result.masks) for result in results] == [1, 1, 0]
    for result, num_removed in zip(results, removed, strict=True):
        print(result.seconds, f"{result.peak_memory_gib:.2f} GiB", result.losses)
        assert result.numerics.dtype.startswith("bf16")
        assert result.num_train_tokens == STEPS * BATCH * LENGTH
        assert result.proof.num_start_tensors_equal_theta0 == NUM_TENSORS
        assert result.proof.num_masked_zero_in_model == num_removed
        assert result.proof.num_masked_zero_in_masters == num_removed
        assert result.peak_memory_gib < MAX_MEMORY_GIB

    store, masks = Store(context.spec.store), []
    for result in results:
        for name in result.masks:
            data = read_artifact(store.artifact(result.trial_key, name))
            masks.append(read_mask(data, prunable, name))
    for mask, num_removed in zip(masks, NUM_REMOVED, strict=True):
        assert len(mask.bits) == NUM_PRUNABLE // 8
        assert int(np.bitwise_count(mask.bits).sum(dtype=np.int64)) == NUM_PRUNABLE - num_removed
    assert all(child.is_subset_of(parent) for parent, child in pairwise(masks))

    uri = context.spec.tracking.uri
    rows = lineage(uri, "large", results[-1].trial_key)
    assert [row.num_removed for row in rows] == [*reversed(NUM_REMOVED), 0]
    assert [row.trial_key for row in rows] == [one.trial_key for one in reversed(results)]
    assert [row.mask_sha256 for row in rows] == [*(m.sha256 for m in reversed(masks)), None]
