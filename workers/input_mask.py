"""The mask that a trial trains under: read from a file, or computed on the spot."""

from __future__ import annotations

from pathlib import Path

from search_spaces.canonical import short
from search_spaces.checkpoint import backbone_entries, iter_parameters
from search_spaces.contracts import FailureClass, TrialRequest
from search_spaces.models import num_layers_of, read_config
from search_spaces.places import masked
from search_spaces.prunable import POOLER, PrunableSet, prunable_set
from search_spaces.trial import (
    GivenMask,
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
        TrialFailure: The mask's file is missing, damaged, or not the mask asked for.
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
    if isinstance(source, GivenMask):
        return file_mask(request, prunable, source)
    return magnitude_mask(request, prunable, source)


def magnitude_mask(
    request: TrialRequest, prunable: PrunableSet, source: TrainedMask | Theta0Mask
) -> Mask:
    """Return the mask that a parent pruned, or that of theta_0; errors as for ``input_mask``."""
    if isinstance(source, TrainedMask):
        return file_mask(request, prunable, source)
    weights = dict(iter_parameters(Path(request.model.folder)))
    return theta0_magnitude(weights, prunable, source.num_removed).mask


def file_mask(
    request: TrialRequest, prunable: PrunableSet, source: TrainedMask | GivenMask
) -> Mask:
    """Return the mask in the file that the request names; errors as for ``input_mask``.

    A source that kept its pooler out of all rankings (``keep-all``, method rule 10) moves to a
    task whose masks cover the pooler with all of that matrix kept.
    """
    file = request.mask_file
    assert file, "whoever makes the request gives it the file of such a mask"
    data = read_artifact(file)
    try:
        mask = read_mask(data, None, masked(file.uri))
        _check_content(mask, source, masked(file.uri))
        if mask.prunable == prunable.without_pooler():
            mask = mask.widened(prunable)
        check_model(mask.prunable, prunable, masked(file.uri), "mask")
    except (MaskFileError, MaskMismatchError) as error:
        raise TrialFailure(FailureClass.USER_ERROR, str(error)) from error
    if mask.num_removed != source.num_removed:
        message = (
            f"{masked(file.uri)}: the mask removes {mask.num_removed} weights, but the trial "
            f"needs one that removes {source.num_removed}. {_advice(source)}"
        )
        raise TrialFailure(FailureClass.USER_ERROR, message)
    return mask


def _check_content(mask: Mask, source: TrainedMask | GivenMask, place: str) -> None:
    """Refuse another mask than the given one, which its trial's key names by content."""
    if isinstance(source, GivenMask) and mask.sha256 != source.mask_sha256:
        raise MaskMismatchError(
            f"{place}: holds the mask {short(mask.sha256)}, but the trial needs "
            f"{short(source.mask_sha256)}. {_advice(source)}"
        )


def _advice(source: TrainedMask | GivenMask) -> str:
    if isinstance(source, GivenMask):
        return "Remove the file and run the sweep again: it is copied again."
    return "Remove its trial from the store and run the sweep again: that trial is run again."
