"""One trial, the method on one screen: rewind, mask, fine-tune, evaluate, prune, publish."""

from __future__ import annotations

import resource
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from search_spaces.contracts import (
    ArtifactInfo,
    FailureClass,
    MaskArtifact,
    ModelPlace,
    NumericsClass,
    Proof,
    Reporter,
    TrialRequest,
    TrialResult,
)
from search_spaces.inputs import local_path
from search_spaces.prunable import READ_EACH_TOKEN
from search_spaces.tasks import secondary_metrics, task_source
from search_spaces.trial import CARRY_ARTIFACT, INPUT_MASK_ARTIFACT, TrialSpec, weights_artifact
from workers.arrays import ParameterArrays
from workers.artifacts import read_artifact, write_artifact
from workers.carry import Carried, starting_point
from workers.checkpoint import Checkpoints
from workers.checkpoint_file import delete_all
from workers.devices import arithmetic
from workers.engine import Engine, Engines
from workers.evaluate import evaluate
from workers.failures import classify
from workers.finetune import Shard, finetune
from workers.input_mask import input_mask, worker_prunable_set
from workers.kept_weights import Arrays, KeptWeights
from workers.mask import Mask
from workers.mask_file import write_mask
from workers.problems import evaluation_key, problem_of_trial
from workers.proof import prove_rewound, prove_zeros
from workers.pruners import Pruned, global_magnitude, layerwise_magnitude
from workers.starts import iter_start
from workers.stopwatch import StepReports, Stopwatch
from workers.tokens import TokenSplit, library_version, token_splits

PRUNERS = {"global-magnitude": global_magnitude, "layerwise-magnitude": layerwise_magnitude}


class TrialRunner:
    """Runs trials one after the other in this process, on engines that stay warm."""

    def __init__(self) -> None:
        self._engines = Engines()

    def __call__(self, request: TrialRequest, reporter: Reporter) -> TrialResult:
        """Run one attempt of one trial; every rank of the gang calls this.

        Args:
            request: What to run, from what, and where to leave it.
            reporter: Told how it gets on.

        Returns:
            The result; the same on every rank, but rank 0 alone writes files and names them.

        Raises:
            TrialFailure: The trial cannot go on; its class says whether to try again.
            SpecError: The data or the model are not what the sweep was planned with.
        """
        clock = Stopwatch(reporter)
        clock.phase("load")
        request = _here(request)
        try:
            engine = self._engines.engine(request)
            result = run_trial(request, engine, reporter, clock)
        except BaseException as error:
            self._engines.drop(request)
            if request.checkpoints and classify(error) is FailureClass.DIVERGED:
                delete_all(request.checkpoints.uri)  # going on from there would diverge again
            raise
        engine.release()
        return result


def _here(request: TrialRequest) -> TrialRequest:
    """Return a request that names the model by a folder of this node, copied there if need be."""
    place = ModelPlace(folder=str(local_path(request.model.folder)))
    return request.model_copy(update={"model": place})


def run_trial(
    request: TrialRequest, engine: Engine, reporter: Reporter, clock: Stopwatch
) -> TrialResult:
    """Run one attempt on an engine; arguments, result and errors as for ``TrialRunner``."""
    spec, shard = request.spec, shard_of(request)
    folder = Path(request.model.folder)
    tokens = token_splits(spec.model, folder, spec.task, request.task, Path(request.cache_folder))
    mask = input_mask(request)
    carried = Carried.from_bytes(read_artifact(request.carry_file)) if request.carry_file else None
    head: Arrays | None = carried.head if carried and spec.recipe.head == "carry" else None
    if request.start_file:
        head = KeptWeights.read(request.start_file).head
    start_values = partial(
        iter_start,
        folder,
        spec.start,
        spec.task.data_sha256,
        mask.prunable if mask else None,
        request.start_file,
    )
    words = tokens["train"].words(engine.num_words)
    engine.rewind(spec, mask, head, words, dict(start_values()) if spec.start else None)
    num_rewound = prove_rewound(engine.masters(engine.backbone), start_values(), mask)

    kept: dict[str, ArtifactInfo] = {}
    numerics, per_epoch = numerics_of(request, shard, engine.device), batches_of(spec, tokens)
    alive = partial(reporter.phase, "train")
    checkpoints = Checkpoints(request, engine, shard, numerics, per_epoch, kept, alive)
    so_far = checkpoints.resumed()

    clock.phase("train")
    start = starting_point(spec.recipe, carried)
    last_loss = so_far.losses[-1][1] if so_far.losses else 0.0
    steps_told = StepReports(reporter, spec.recipe.train_steps, last_loss)

    def after_step(step: int) -> None:
        keep_weights(request, engine, shard, kept, step)
        steps_told.taken(step)

    problem, told = problem_of_trial(request), steps_told.read
    trained = finetune(
        engine,
        spec,
        tokens["train"],
        shard,
        told,
        start,
        after_step,
        problem,
        so_far,
        checkpoints.at_boundary,
        alive,
    )
    engine.optimizer.share_masters()
    clock.add("train", checkpoints.seconds_before)

    clock.phase("evaluate")
    source = task_source(request.task.source)
    names = (spec.task.metric, *secondary_metrics(source))
    splits = {name: split for name, split in tokens.items() if name != "train"}
    key = evaluation_key(spec.task.data_sha256)
    alive = partial(reporter.phase, "evaluate")
    scores = {n: evaluate(engine, s, problem, names, shard, key, alive) for n, s in splits.items()}

    clock.phase("prune")
    weights = engine.masters(engine.backbone)
    proof = Proof(
        num_start_tensors_equal_theta0=num_rewound,
        num_masked_zero_in_model=prove_zeros(ParameterArrays(engine.backbone), mask, "model"),
        num_masked_zero_in_masters=prove_zeros(weights, mask, "masters"),
    )
    head_weights = dict(engine.masters(engine.head)) if request.outputs.carry else {}
    pruned = prune_outputs(request, engine.ranked(), mask)
    steps = spec.recipe.train_steps
    epochs = -(-steps // per_epoch)
    carry = Carried(head_weights, start[0] + epochs, start[1] + steps)
    masks, files = publish(request, shard, mask, pruned, carry)
    files |= kept
    return TrialResult(
        trial_key=spec.key,
        attempt=request.attempt,
        scores=scores,
        metric=spec.task.metric,
        losses=trained.losses,
        num_steps=spec.num_steps,
        num_train_tokens=trained.num_tokens,
        num_truncated=tokens["train"].num_truncated,
        input_mask=mask.info() if mask else None,
        masks=masks,
        artifacts=files,
        proof=proof,
        numerics=numerics,
        seconds=clock.stop(),
        peak_memory_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        host=socket.gethostname(),
        started_at=clock.started_at,
        resumed_at_step=checkpoints.resumed_at,
        restart_reason=checkpoints.restart_reason,
    )


def prune_outputs(request: TrialRequest, weights: Any, mask: Mask | None) -> dict[str, Pruned]:
    """Return the masks that the trial shall leave behind, by artifact name."""
    if not request.outputs.prunes:
        return {}
    before = mask or Mask.ones(worker_prunable_set(request))
    return {
        output.artifact: PRUNERS[output.pruner](weights, before, output.num_removed)
        for output in request.outputs.prunes
    }


def publish(
    request: TrialRequest,
    shard: Shard,
    mask: Mask | None,
    pruned: dict[str, Pruned],
    carry: Carried,
) -> tuple[dict[str, MaskArtifact], dict[str, ArtifactInfo]]:
    """Write what the trial leaves behind; only rank 0 does."""
    if shard.rank != 0:
        return {}, {}
    spec, kept = request.spec, dict(pruned)
    if request.outputs.input_mask and mask:
        kept[INPUT_MASK_ARTIFACT] = Pruned(mask, 0)
    metadata = {"theta0_sha256": spec.model.theta0_sha256, "trial_key": spec.key}
    metadata |= pooler_policy(request)
    masks = {}
    for name, item in kept.items():
        data = write_mask(item.mask, metadata, item.num_ties)
        file = write_artifact(request.attempt_uri, name, data)
        masks[name] = MaskArtifact(file=file, mask=item.mask.info(item.num_ties))
    files = {name: artifact.file for name, artifact in masks.items()}
    if request.outputs.carry:
        data = carry.to_bytes()
        files[CARRY_ARTIFACT] = write_artifact(request.attempt_uri, CARRY_ARTIFACT, data)
    return masks, files


def keep_weights(
    request: TrialRequest,
    engine: Engine,
    shard: Shard,
    kept: dict[str, ArtifactInfo],
    step: int,
) -> None:
    """Write the whole model after a step that another trial starts from; only rank 0 does."""
    if step not in request.outputs.weights:
        return
    engine.optimizer.share_masters()  # by all ranks
    if shard.rank != 0:
        return
    masters = KeptWeights(engine.masters(engine.backbone), engine.masters(engine.head))
    name, data = weights_artifact(step), masters.to_bytes()
    kept[name] = write_artifact(request.attempt_uri, name, data)


def pooler_policy(request: TrialRequest) -> dict[str, str]:
    """Return what a mask file notes of the pooler, where the task's head leaves it out."""
    if request.spec.task.problem not in READ_EACH_TOKEN:
        return {}
    counts = worker_prunable_set(request).has_pooler
    return {"pooler": "theta0-magnitude" if counts else "keep-all"}


def shard_of(request: TrialRequest) -> Shard:
    """Return this rank's part of each batch."""
    num_ranks = request.compute.num_ranks
    share = request.spec.recipe.batch_size // num_ranks
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    size = request.compute.micro_batch_size or share
    return Shard(rank, num_ranks, size, request.compute.layout)


def batches_of(spec: TrialSpec, tokens: Mapping[str, TokenSplit]) -> int:
    """Return the optimizer steps of one pass through the training data."""
    return -(-len(tokens["train"]) // spec.recipe.batch_size)


def numerics_of(request: TrialRequest, shard: Shard, device: torch.device) -> NumericsClass:
    """Return the class within which bit equality is promised (method rule 22)."""
    on_gpu = torch.device(device).type == "cuda"
    return NumericsClass(
        device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
        dtype=arithmetic(request.spec.recipe.dtype, device),
        layout=request.compute.layout,
        num_ranks=shard.num_ranks,
        micro_batch_size=shard.micro_batch_size,
        num_threads=torch.get_num_threads(),
        versions={n: library_version(n) for n in ("torch", "transformers", "deepspeed")},
        exchange=f"{request.spec.recipe.dtype} to owners" if shard.num_ranks > 1 else "",
    )
