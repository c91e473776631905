"""The newest checkpoint of a trial as one rank reads it: whole and its own, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import ValidationError

from search_spaces.contracts import ArtifactInfo, ArtifactRef, NumericsClass, TrialRequest, below
from search_spaces.trial import weights_artifact
from workers.artifacts import read_artifact, write_artifact
from workers.checkpoint_file import (
    Manifest,
    UnusableError,
    names_of,
    read_file,
    read_manifest,
    tensors_of,
)
from workers.checkpoint_state import RankState
from workers.failures import TrialFailure

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Found:
    """What one rank goes on from.

    Attributes:
        rank: Its own state.
        random: Arrays of its random states.
        state: Of the optimizer, of what this rank owns.
        kept: Weights kept on the way, now in this attempt's folder; of rank 0 alone.
    """

    rank: RankState
    random: dict[str, torch.Tensor]
    state: Tensors
    kept: dict[str, ArtifactInfo]


def inputs_of(request: TrialRequest) -> dict[str, str]:
    """Return the sha256 of the files that a training begins with, by what they are.

    The trial's key names these by the trials that made them, whose bits may be others when they
    are made again, on another machine for example.
    """
    files = {
        "mask": request.mask_file,
        "carried state": request.carry_file,
        "start": request.start_file,
    }
    return {name: file.sha256 for name, file in files.items() if file}


def find_checkpoint(
    request: TrialRequest, numerics: NumericsClass, rank: int, like: Tensors
) -> Found | None:
    """Return a rank's part of the newest checkpoint, every byte checked; None where there is none.

    Args:
        request: The attempt that would go on from it.
        numerics: Its class.
        rank: Rank 0 also brings kept weights into the attempt's folder.
        like: This rank's optimizer state before the first step: its names, shapes and types.

    Raises:
        UnusableError: It does not count; the message says which and why.
    """
    assert request.checkpoints is not None
    uri, manifest = request.checkpoints.uri, None
    try:
        manifest = read_manifest(uri)
        if manifest is None:
            return None
        _check(manifest, request, numerics)
        return _read(manifest, request, rank, like)
    except UnusableError as error:
        which = f"the checkpoint after step {manifest.step}" if manifest else "the checkpoint"
        raise UnusableError(f"{which} does not count: {error}") from error


def _check(manifest: Manifest, request: TrialRequest, numerics: NumericsClass) -> None:
    if manifest.trial_key != request.spec.key:
        raise UnusableError("it is of another trial")
    if difference := numerics.difference(manifest.numerics):
        raise UnusableError(f"the numerics class is another now: {difference}")
    inputs = inputs_of(request)
    for name in sorted(inputs.keys() | manifest.inputs.keys()):
        if inputs.get(name) != manifest.inputs.get(name):
            raise UnusableError(f"the trial's {name} was made again and is another file now")


def _read(manifest: Manifest, request: TrialRequest, rank: int, like: Tensors) -> Found:
    assert request.checkpoints is not None
    folder, names = below(request.checkpoints.uri, manifest.folder), names_of(rank)
    state_file, random_file, rest_file = (manifest.file(name) for name in names)
    text = read_file(folder, rest_file)
    random = tensors_of(read_file(folder, random_file))
    state = tensors_of(read_file(folder, state_file))
    if _forms(state) != _forms(like):  # copying would spread a smaller tensor over a larger one
        raise UnusableError("its state is not of this model and mask")
    try:
        own = RankState.model_validate_json(text)
    except ValidationError as error:
        raise UnusableError("another version wrote it") from error
    return Found(own, random, state, _kept_again(request, manifest, own) if rank == 0 else {})


def _forms(tensors: Tensors) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _kept_again(
    request: TrialRequest, manifest: Manifest, state: RankState
) -> dict[str, ArtifactInfo]:
    """Bring the weights that were kept on the way into this attempt's own folder."""
    wanted = {weights_artifact(step) for step in request.outputs.weights if step <= state.step}
    if missing := sorted(wanted - state.kept.keys()):
        raise UnusableError(f"this sweep asks for {', '.join(missing)}, which it passed by")
    own = request.attempt  # the manifest holds no URI, which may hold a password
    folder = f"/attempts/{manifest.attempt}".join(request.attempt_uri.rsplit(f"/attempts/{own}", 1))
    kept = {}
    for name in sorted(wanted):
        uri = below(folder, name)
        try:
            data = read_artifact(ArtifactRef(uri=uri, sha256=state.kept[name].sha256))
        except TrialFailure as error:
            raise UnusableError(f"{name}, which was kept on the way, is gone") from error
        kept[name] = write_artifact(request.attempt_uri, name, data)
    return kept
