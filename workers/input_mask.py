"""The mask that a trial trains under: read from its parent, or computed on the spot."""

from __future__ import annotations

from pathlib import Path

from search_spaces.checkpoint import backbone_entries, iter_parameters
from search_spaces.contracts import FailureClass, TrialRequest
from search_spaces.models import read_config
from search_spaces.prunable import POOLER, PrunableSet, prunable_set
from search_spaces.trial import RandomLayerwiseMask, RandomMask, Theta0Mask, TrainedMask
from workers.artifacts import read_artifact
from workers.failures import TrialFailure
from workers.mask import Mask
from workers.mask_file import read_mask
from workers.pruners import random_layerwise, random_uniform, theta0_magnitude
from workers.seeds import stream


def worker_prunable_set(request: TrialRequest) -> PrunableSet:
    """Return the prunable set that the trial's identity names.

    Raises:
        TrialFailure: The model's files do not hold it.
    """
    folder, identity = Path(request.model.folder), request.spec.model
    shapes = {name: tuple(entry.shape) for name, entry in backbone_entries(folder).items()}
    num_layers = int(read_config(folder).get("num_hidden_layers", 12))
    for with_pooler in (False, True) if POOLER in shapes else (False,):
        found = prunable_set(shapes, num_layers, with_pooler)
        if found.sha256 == identity.prunable_sha256:
            return found
    message = f"{folder}: the model has another prunable set than the sweep was planned with."
    raise TrialFailure(FailureClass.USER_ERROR, message)


def input_mask(request: TrialRequest) -> Mask | None:
    """Return the trial's mask; None = dense.

    Raises:
        TrialFailure: The parent's mask file is missing or damaged.
    """
    source = request.spec.mask
    if source is None:
        return None
    prunable, seed_of = worker_prunable_set(request), request.spec.task.data_sha256
    if isinstance(source, Theta0Mask):
        weights = dict(iter_parameters(Path(request.model.folder)))
        return theta0_magnitude(weights, prunable, source.num_removed).mask
    if isinstance(source, RandomMask):
        seed = stream(source.seed, seed_of, "random_mask")
        return random_uniform(prunable, source.num_removed, seed)
    assert request.mask_file is not None, "the scheduler gives every child its parent's mask"
    parent = read_mask(read_artifact(request.mask_file), prunable, request.mask_file.uri)
    if isinstance(source, TrainedMask):
        return parent
    assert isinstance(source, RandomLayerwiseMask)
    return random_layerwise(parent, stream(source.seed, seed_of, "random_mask"))
