"""Searches whose trials only sleep, for real on Ray: what is left is what an orchestrator adds.

Every trial, of ours and of Ray Tune, writes to one log when it began and when it ended, in its own
process; all numbers come from there.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.diary import Diary
from benchmarks.paper_study import EXAMPLES, model_facts, task_facts
from cluster.ray_executor import RayExecutor
from cluster.session import Session
from orchestrator.driver import run_sweep
from orchestrator.journal import Journal, SweepInfo
from orchestrator.listeners import SilentListener, SweepOutcome
from orchestrator.policies import LadderPolicy
from orchestrator.requests import compute_of, request_maker
from orchestrator.retries import DEFAULT_BUDGETS
from orchestrator.store import Store
from search_spaces.contracts import (
    ArtifactInfo,
    MaskArtifact,
    MaskInfo,
    NumericsClass,
    Proof,
    Reporter,
    SplitScore,
    TrialRequest,
    TrialResult,
)
from search_spaces.loading import load_sweep
from search_spaces.recipes import Recipe
from search_spaces.trial import (
    TRAINING_CODE_VERSION,
    Outputs,
    PruneOutput,
    Role,
    TrainedMask,
    Trial,
    TrialSpec,
)
from workers.artifacts import write_artifact
from workers.ranks import RankEnv

MODEL, TASK = "bert-base", "rte"
JOURNAL = "journal.db"


@dataclass(frozen=True)
class Search:
    """Lineages of iterative pruning: each round waits for the mask of the one before.

    Attributes:
        trial_s: What each trial takes in its process, its mask file included.
        num_slots: Trials at once.
        mask_bytes: Of the file that each trial leaves, durable, for the next round.
    """

    num_lineages: int
    num_rounds: int
    trial_s: float
    num_slots: int
    mask_bytes: int = 1 << 16

    @property
    def num_trials(self) -> int:
        """All rounds of all lineages."""
        return self.num_lineages * self.num_rounds

    def trials(self) -> list[Trial]:
        """Return its trials, parents first; every lineage has a seed of its own."""
        return [trial for seed in range(self.num_lineages) for trial in self._lineage(seed)]

    def _lineage(self, seed: int) -> list[Trial]:
        trials: list[Trial] = []
        for index in range(self.num_rounds):
            parent = trials[-1].key if trials else None
            trials.append(_round(seed, index, parent))
        return trials


@dataclass(frozen=True)
class Sleeper:
    """What a rank of ours runs in place of training."""

    diary: str
    trial_s: float
    mask_bytes: int
    num_slots: int

    def __call__(self, request: TrialRequest, reporter: Reporter) -> TrialResult:
        """Leave the mask that is asked for and sleep for the rest of the trial's time."""
        (mask,) = request.outputs.artifacts
        file = sleep_and_write(
            self.diary,
            request.spec.key,
            request.attempt_uri,
            self.trial_s,
            self.mask_bytes,
            self.num_slots,
            mask,
        )
        return _result(request, {mask: file}, self.trial_s)


def sleep_and_write(
    diary: str,
    name: str,
    folder: str,
    trial_s: float,
    mask_bytes: int,
    num_slots: int,
    mask: str = "mask.arrow",
) -> ArtifactInfo:
    """Be a trial: write a file, durable, and sleep for the rest of its time.

    Args:
        diary: Path of the trials' log.
        name: Of the trial.
        folder: Where the file goes.
        trial_s: Seconds from beginning to end.
        mask_bytes: Of the file.
        num_slots: Processes that must be there before the first trial of any begins.
        mask: The file's name.
    """
    log = Diary(diary)
    log.meet(num_slots)
    until_s = time.perf_counter() + trial_s
    log.write("begin", name)
    file = write_artifact(folder, mask, bytes(mask_bytes))
    time.sleep(max(0.0, until_s - time.perf_counter()))
    log.write("end", name)
    return file


def sleep_in_tune(config: dict[str, Any]) -> None:
    """Do the same as a trial of Ray Tune: sleep, then report once."""
    from ray import tune

    diary, name = Diary(config["diary"]), str(config["number"])
    diary.meet(config["num_slots"])
    until_s = time.perf_counter() + config["trial_s"]
    diary.write("begin", name)
    time.sleep(max(0.0, until_s - time.perf_counter()))
    diary.write("end", name)
    tune.report({"score": 0.5})


def run_ours(search: Search, session: Session, folder: Path, diary: str) -> SweepOutcome:
    """Run a search with our driver, journal and store on a Ray that is there.

    Args:
        search: It.
        session: An entered one, with a CPU for each slot.
        folder: Of journal and store; what they hold is not run again.
        diary: Path of the trials' log.
    """
    spec = load_sweep(EXAMPLES / "chen2020-table2.yaml")
    resources = {"cpus_per_rank": 1, "gpus_per_rank": 0}
    spec = spec.model_copy(update={"resources": spec.resources.model_copy(update=resources)})
    models = {one.name: model_facts(one.name) for one in spec.models}
    tasks = {one.name: task_facts(one) for one in spec.tasks}
    store = Store(str(folder / "store"))
    sleeper = Sleeper(diary, search.trial_s, search.mask_bytes, search.num_slots)
    executor = RayExecutor(
        session, compute_of(spec), search.num_slots, None, sleeper, connect_function=join_nobody
    )
    info = SweepInfo("sleeping", "0" * 64, "")
    with Journal.open(folder / JOURNAL, info, time.time()) as journal:
        return run_sweep(
            search.trials(),
            store,
            journal,
            executor,
            LadderPolicy(),
            DEFAULT_BUDGETS,
            SilentListener(),
            time.time,
            request_maker(spec, models, tasks, store, folder / "cache"),
        )


def run_tune(search: Search, folder: Path, diary: str, restore: bool = False) -> None:
    """Run as many independent trials with Ray Tune, in this process's Ray.

    Tune has no dependencies between trials, so it has the easier graph: nothing ever waits.

    Args:
        search: Its number of trials, their seconds and the slots.
        folder: Tune's storage.
        diary: Path of the trials' log.
        restore: Go on with the experiment that a killed driver left there.
    """
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # its loggers cost it time: left out
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    from ray import tune

    trainable = tune.with_resources(sleep_in_tune, {"CPU": 1})
    if restore:
        tune.Tuner.restore(str(folder / "sleeping"), trainable).fit()
        return
    space = {
        "number": tune.grid_search(list(range(search.num_trials))),
        "trial_s": search.trial_s,
        "diary": diary,
        "num_slots": search.num_slots,
    }
    config = tune.TuneConfig(reuse_actors=True, max_concurrent_trials=search.num_slots)
    run = tune.RunConfig(name="sleeping", storage_path=str(folder), verbose=0)
    tune.Tuner(trainable, param_space=space, tune_config=config, run_config=run).fit()


def join_nobody(env: RankEnv) -> None:
    """Be a gang of one rank, without torch."""


def _round(seed: int, index: int, parent: str | None) -> Trial:
    facts, num = model_facts(MODEL), model_facts(MODEL).identity.num_prunable
    task = next(
        one for one in load_sweep(EXAMPLES / "chen2020-table2.yaml").tasks if one.name == TASK
    )
    removed = [round(num * (1 - 0.9 ** (number + index))) for number in (0, 1)]
    spec = TrialSpec(
        model=facts.identity,
        task=task_facts(task).identity,
        recipe=Recipe(train_steps=234, lr_horizon_steps=234, batch_size=32, learning_rate=2e-5),
        seed=seed,
        mask=TrainedMask(parent=parent, num_removed=removed[0]) if parent else None,
        code_version=TRAINING_CODE_VERSION,
    )
    role = Role(
        kind="round",
        model=MODEL,
        task=TASK,
        method="imp",
        seed=seed,
        search_seed=seed,
        round_index=index,
        sparsity=removed[0] / num,
    )
    prune = PruneOutput(pruner="global-magnitude", num_removed=removed[1])
    return Trial(spec=spec, roles=(role,), outputs=Outputs(prunes=(prune,)))


def _result(request: TrialRequest, files: dict[str, ArtifactInfo], trial_s: float) -> TrialResult:
    spec = request.spec
    num = spec.model.num_prunable
    masks = {
        prune.artifact: MaskArtifact(
            file=files[prune.artifact],
            mask=MaskInfo(
                sha256="0" * 64,
                num_weights=num,
                num_removed=prune.num_removed,
                kept_per_matrix={},
                sparsity_per_matrix={},
            ),
        )
        for prune in request.outputs.prunes
    }
    score = SplitScore(metrics={"accuracy": 0.5}, num_examples=1, constant_predictor=False)
    return TrialResult(
        trial_key=spec.key,
        attempt=request.attempt,
        scores={"select": score},
        metric="accuracy",
        losses=(),
        num_steps=spec.num_steps,
        num_train_tokens=1,
        num_truncated=0,
        masks=masks,
        artifacts=files,
        proof=Proof(
            num_start_tensors_equal_theta0=0,
            num_masked_zero_in_model=0,
            num_masked_zero_in_masters=0,
        ),
        numerics=NumericsClass(
            device="cpu",
            dtype="fp32",
            layout="unpadded",
            num_ranks=1,
            micro_batch_size=1,
            num_threads=1,
            versions={},
        ),
        seconds={"train": trial_s, "total": trial_s},
        peak_memory_gib=0.0,
        host="localhost",
        started_at="2026-01-01T00:00:00+00:00",
    )
