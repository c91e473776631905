"""Sweeps of BERT-tiny whose masks are real and whose scores are made up: nothing is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.judging import judge_sweep
from orchestrator.registering import register_winners
from orchestrator.registry_commands import registered_tickets
from orchestrator.store import Store
from orchestrator.tracking import MlflowTracker
from search_spaces.contracts import ArtifactInfo, SplitScore, TrialResult, attempt_folder
from search_spaces.expand import expand
from search_spaces.models import ModelFacts
from search_spaces.prunable import PrunableSet
from search_spaces.resolve import resolve_sweep
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Role, TrainedMask, Trial
from tests.orchestrator.factories import make_result
from tests.workers.requests import make_task
from workers.mask import Mask
from workers.mask_file import write_mask
from workers.pruners import random_uniform

BERT_TINY = "package:cognition/model"
NAME = "tickets-bert-tiny-toy"  # of the registered model, where the task has its default name
ATTEMPT = "a001-0000abcd"
Score = Callable[[Role], float]  # on select; report is 0.1 lower


def two_levels_match(role: Role) -> float:
    """Dense 0.80 + seed / 100, which tickets up to 70% reach; sparser ones and controls lose."""
    loses = role.kind == "control" or role.sparsity > 0.75
    return 0.8 + role.seed / 100 - 0.3 * loses


@dataclass(frozen=True)
class World:
    """A finished sweep."""

    spec: SweepSpec
    model: ModelFacts
    trials: list[Trial]
    results: dict[str, TrialResult]
    store: Store
    uri: str

    def register(self, experiment: str = "tickets") -> None:
        """Register the winners, as the end of ``tickets run`` does."""
        tracker = MlflowTracker(self.uri, experiment, self.spec.name, "hash")
        judged = judge_sweep(self.spec, self.trials, self.results)
        spec, store = self.spec, self.store
        register_winners(tracker, spec, self.trials, self.results, judged, store)


def make_world(
    root: Path,
    uri: str | None = None,
    score: Score = two_levels_match,
    task: str = "toy",
    **changes: Any,
) -> World:
    """Return a sweep with all results committed.

    Args:
        root: Gets data, store and, without a URI, MLflow's database.
        uri: Of an MLflow that is there.
        score: Of a trial in a role, on select.
        task: The task's name.
        changes: Fields of the sweep.
    """
    data = make_task(root / "data")
    source = {"kind": "files", "train": f"{data}/train.jsonl", "report": f"{data}/dev.jsonl"}
    fields = {
        "name": "small",
        "models": [{"name": "bert-tiny", "source": BERT_TINY}],
        "tasks": [{"name": task, "source": source, "max_length": 24}],
        "seeds": [1, 2, 3],
        "schedule": {"kind": "levels", "levels": [0.5, 0.7, 0.85]},
        "controls": ["random-uniform"],
        "recipe": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3},
        "store": f"{root}/store",
        **changes,
    }
    spec = SweepSpec.model_validate(fields)
    models, tasks = resolve_sweep(spec)
    trials, store, (model,) = expand(spec, models, tasks), Store(spec.store), models.values()
    masks: dict[tuple[str, int], Mask] = {}
    results = {}
    for trial in trials:
        result = _result(trial, score(trial.main_role), model.prunable, masks, store.uri)
        store.commit(result, trial.spec)
        results[trial.key] = result
    return World(spec, model, trials, results, store, uri or f"sqlite:///{root}/mlflow.db")


def _result(
    trial: Trial,
    score: float,
    prunable: PrunableSet,
    masks: dict[tuple[str, int], Mask],
    store_uri: str,
) -> TrialResult:
    """Leave a trial's masks, nested within a seed, in the store, and return its result."""
    artifacts = {}
    for output in trial.outputs.prunes:
        mask = random_uniform(prunable, output.num_removed, seed=trial.spec.seed)
        masks[trial.key, output.num_removed] = mask
        path = Path(attempt_folder(store_uri, trial.key, ATTEMPT)) / output.artifact
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"theta0_sha256": trial.spec.model.theta0_sha256, "trial_key": trial.key}
        path.write_bytes(write_mask(mask, metadata))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        size = path.stat().st_size
        artifacts[path.name] = ArtifactInfo(name=path.name, sha256=digest, num_bytes=size)
    given = trial.spec.mask
    own = masks[given.parent, given.num_removed].info() if isinstance(given, TrainedMask) else None
    scores = {
        name: SplitScore(metrics={"accuracy": value}, num_examples=100, constant_predictor=False)
        for name, value in (("select", score), ("report", score - 0.1))
    }
    made = make_result(trial, ATTEMPT, artifacts)
    return made.model_copy(update={"scores": scores, "input_mask": own})


def aliases(uri: str, task: str) -> dict[str, tuple[int, str]]:
    """Return version and sparsity in percent of each alias of a task."""
    return {
        alias: (one.version, f"{one.sparsity:.0%}")
        for one in registered_tickets(uri)
        if one.name == f"tickets-bert-tiny-{task}"
        for alias in one.aliases
    }


def losing(world: World, sparsity: float) -> World:
    """Return the same sweep, as if its tickets of one level had come out worse."""
    results = dict(world.results)
    for trial in world.trials:
        if trial.kind == "final" and round(trial.main_role.sparsity, 3) == sparsity:
            bad = SplitScore(metrics={"accuracy": 0.1}, num_examples=9, constant_predictor=False)
            changes = {"scores": {"select": bad, "report": bad}}
            results[trial.key] = results[trial.key].model_copy(update=changes)
    return replace(world, results=results)
