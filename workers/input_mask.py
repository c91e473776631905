"""The mask that a trial trains under: read from its parent, or computed on the spot."""

from __future__ import annotations

from pathlib import Path

from search_spaces.checkpoint import backbone_entries, iter_parameters
from search_spaces.contracts import FailureClass, TrialRequest
from search_spaces.models import num_layers_of, read_config
from search_spaces.prunable import POOLER, PrunableSet, prunable_set
from search_spaces.trial import (
    RandomInitMask,
    RandomLayerwiseMask,
    RandomMask,
    Theta0Mask,
    TrainedMask,
)
from workers.arrow_file import check_model
from workers.artifacts import read_artifact
from workers.failures import TrialFailure
from workers.mask import Mask, MaskMismatchError
from workers.mask_file import MaskFileError, read_mask
from workers.pruners import random_layerwise, random_uniform, theta0_magnitude
from workers.seeds import stream
from workers.starts import drawn


def worker_prunable_set(request: TrialRequest) -> PrunableSet:
    """Return the prunable set that the trial's identity names.

    Raises:
        TrialFailure: The model's files do not hold it.
    """
    folder, identity = Path(request.model.folder), request.spec.model
    shapes = {name: tuple(entry.shape) for name, entry in backbone_entries(folder).items()}
    num_layers = num_layers_of(read_config(folder))
    for with_pooler in (False, True) if POOLER in shapes else (False,):
        found = prunable_set(shapes, num_layers, with_pooler)
        if found.sha256 == identity.prunable_sha256:
            return found
    message = f"{folder}: the model has another prunable set than the sweep was planned with."
    raise TrialFailure(FailureClass.USER_ERROR, message)


def input_mask(request: TrialRequest) -> Mask | None:
    """Return the trial's mask; None = dense.

    Raises:
        TrialFailure: The parent's mask file is missing, damaged, or not the mask asked for.
    """
    source = request.spec.mask
    if source is None:
        return None
    prunable, seed_of = worker_prunable_set(request), request.spec.task.data_sha256
    if isinstance(source, RandomInitMask):
        fresh = drawn(Path(request.model.folder), source.seed, seed_of, prunable.names)
        return theta0_magnitude(dict(fresh), prunable, source.num_removed).mask
    if isinstance(source, RandomMask):
        seed = stream(source.seed, seed_of, "random_mask")
        return random_uniform(prunable, source.num_removed, seed)
    if isinstance(source, RandomLayerwiseMask):
        reference = magnitude_mask(request, prunable, source.reference)
        return random_layerwise(reference, stream(source.seed, seed_of, "random_mask"))
    return magnitude_mask(request, prunable, source)


def magnitude_mask(
    request: TrialRequest, prunable: PrunableSet, source: TrainedMask | Theta0Mask
) -> Mask:
    """Return the mask that a parent pruned, or that of theta_0; errors as for ``input_mask``."""
    if isinstance(source, TrainedMask):
        return parent_mask(request, prunable)
    weights = dict(iter_parameters(Path(request.model.folder)))
    return theta0_magnitude(weights, prunable, source.num_removed).mask


def parent_mask(request: TrialRequest, prunable: PrunableSet) -> Mask:
    """Return the mask that the parent trial left behind; errors as for ``input_mask``.

    A source that kept its pooler out of all rankings (``keep-all``, method rule 10) moves to a
    task whose masks cover the pooler with all of that matrix kept.
    """
    wanted, file = request.spec.mask_parent, request.mask_file
    assert wanted and file, "the scheduler gives every child its parent's mask"
    data = read_artifact(file)
    try:
        mask = read_mask(data, None, file.uri)
        if mask.prunable == prunable.without_pooler():
            mask = mask.widened(prunable)
        check_model(mask.prunable, prunable, file.uri, "mask")
    except (MaskFileError, MaskMismatchError) as error:
        raise TrialFailure(FailureClass.USER_ERROR, str(error)) from error
    if mask.num_removed != wanted.num_removed:
        message = (
            f"{file.uri}: the mask removes {mask.num_removed} weights, but the trial needs one "
            f"that removes {wanted.num_removed}. Remove its trial from the store and run the "
            "sweep again: that trial is run again."
        )
        raise TrialFailure(FailureClass.USER_ERROR, message)
    return mask
