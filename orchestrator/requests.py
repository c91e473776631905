"""Turn a planned trial into the request that a gang runs: places beside identities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from orchestrator.given_files import given_ref
from orchestrator.shapes import Shapes, compute_from
from orchestrator.store import Store
from search_spaces.canonical import short
from search_spaces.contracts import (
    ArtifactRef,
    Compute,
    TrialRequest,
    attempt_folder,
    checkpoint_folder,
)
from search_spaces.errors import UserError
from search_spaces.models import ModelFacts
from search_spaces.places import masked
from search_spaces.resolve import TaskFacts
from search_spaces.resuming import CheckpointPlan
from search_spaces.sweep import SweepSpec
from search_spaces.trial import (
    CARRY_ARTIFACT,
    GivenMask,
    PruneOutput,
    Trial,
    TrialSpec,
    weights_artifact,
)


def compute_of(spec: SweepSpec) -> Compute:
    """Return how a sweep's trials are run whose tasks have no resources of their own."""
    return compute_from(spec.resources)


def request_maker(
    spec: SweepSpec,
    models: Mapping[str, ModelFacts],
    tasks: Mapping[str, TaskFacts],
    store: Store,
    cache: Path,
    shapes: Shapes | None = None,
) -> Callable[[Trial, str], TrialRequest]:
    """Return the function that the driver calls for each attempt.

    Args:
        spec: The sweep.
        models: By name in the sweep.
        tasks: By name in the sweep.
        store: Where parents' files are, and where results go.
        cache: Node-local folder of the token cache.
        shapes: What the trials run on; None = as the sweep says, with no size chosen.
    """
    runs_on = shapes or Shapes.of(spec)

    def make_request(trial: Trial, attempt: str) -> TrialRequest:
        role = trial.main_role
        carry, saved = trial.spec.carry_from, trial.spec.saved_start
        return TrialRequest(
            spec=trial.spec,
            label=role.label,
            attempt=attempt,
            attempt_uri=attempt_folder(store.uri, trial.key, attempt),
            outputs=trial.outputs,
            model=models[role.model].place,
            task=tasks[role.task].place,
            mask_file=_mask_file(trial.spec, store),
            carry_file=store.artifact(carry, CARRY_ARTIFACT) if carry else None,
            start_file=store.artifact(saved.parent, weights_artifact(saved.step))
            if saved
            else None,
            cache_folder=str(cache),
            compute=runs_on(trial),
            checkpoints=_checkpoints(spec, store, trial.key),
        )

    return make_request


def _checkpoints(spec: SweepSpec, store: Store, key: str) -> CheckpointPlan | None:
    """Return where a trial's checkpoints lie; None where the sweep wants none."""
    if spec.checkpoints.when == "never":
        return None
    return CheckpointPlan(uri=checkpoint_folder(store.uri, key), rules=spec.checkpoints)


def _mask_file(spec: TrialSpec, store: Store) -> ArtifactRef | None:
    """Return the file that a trial's mask is read from; None where the trial computes it."""
    if isinstance(spec.mask, GivenMask):
        found = given_ref(store.uri, spec.mask.mask_sha256)
        if found is None:
            raise UserError(
                f"The store {masked(store.uri)} has no file of the given mask "
                f"{short(spec.mask.mask_sha256)}. 'tickets run' of its sweep copies it there."
            )
        return found
    parent = spec.mask_parent
    if parent is None:
        return None
    output = PruneOutput(pruner=parent.pruner, num_removed=parent.num_removed)
    return store.artifact(parent.parent, output.artifact)
