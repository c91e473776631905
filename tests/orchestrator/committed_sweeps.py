"""Sweeps that nobody ran, whose results are committed all the same, with real masks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from search_spaces.contracts import ArtifactInfo, SplitScore, attempt_folder
from search_spaces.prunable import PrunableSet
from search_spaces.trial import Trial
from tests.orchestrator.factories import make_result
from workers.mask_file import write_mask
from workers.pruners import random_uniform

SEEDS = list(range(1, 11))


def commit(path: Path, better: float, seeds: list[int] | None = None) -> None:
    """Commit a result of every trial of a sweep, with real masks; imp gains ``better``."""
    context = SweepContext.open(path)
    store, (facts,) = Store(context.spec.store), context.models.values()
    for trial in context.trials:
        role = trial.main_role
        if role.kind != "round" and role.seed not in (seeds or SEEDS):
            continue
        gain = better * (1 + role.seed % 3) if role.method == "imp" else 0.0
        score = 0.9 - role.sparsity / 10 + role.seed / 1000 + gain
        masks = {
            prune.artifact: random_uniform(facts.prunable, prune.num_removed, role.seed)
            for prune in trial.outputs.prunes
        }
        files = {name: write_mask(mask, {}) for name, mask in masks.items()}
        if trial.outputs.input_mask:
            own = random_uniform(facts.prunable, trial.spec.num_removed, 7)
            files["mask.arrow"] = write_mask(own, {})
        store.commit(_result(trial, score, files, store, facts.prunable), trial.spec)


def _result(
    trial: Trial, score: float, files: dict[str, bytes], store: Store, prunable: PrunableSet
) -> Any:
    folder = Path(attempt_folder(store.uri, trial.key, "a1"))
    folder.mkdir(parents=True, exist_ok=True)
    infos = {}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        infos[name] = ArtifactInfo(name=name, sha256=digest, num_bytes=len(data))
    scores = {
        split: SplitScore(metrics={"accuracy": value}, num_examples=9, constant_predictor=False)
        for split, value in (("select", score), ("report", score - 0.1))
    }
    num = trial.spec.num_removed
    mask = random_uniform(prunable, num, trial.spec.seed).info() if num else None
    made = make_result(trial, "a1").model_copy(update={"scores": scores, "input_mask": mask})
    return made.model_copy(update={"artifacts": infos, "masks": {}})
