"""Masks as ``torch.nn.utils.prune`` keeps them, and the reference code in its ``mask.pt``.

The scripts of Chen et al. 2020 (github.com/VITA-Group/BERT-Tickets) save those entries of the
pruned model's state dict whose name holds ``mask``, for example
``bert.encoder.layer.0.attention.self.query.weight_mask``: float32, 1 = kept. To import one::

    mask = read_reference_mask(Path("mask.pt"), prunable)

To write one, which their scripts take as ``--mask_dir`` (of BERT-base, with the pooler)::

    torch.save(mask_buffers(mask), "mask.pt")
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune

from search_spaces.checkpoint import canonical_name
from search_spaces.errors import Fault, SpecError
from search_spaces.prunable import POOLER, PrunableSet
from workers.mask import Mask, MaskMismatchError, describe

_MASK, _ORIGINAL = "_mask", "_orig"  # what torch appends to the name of a pruned parameter
_HOW_TO_SAVE = (
    "Save the masks alone: torch.save({key: value for key, value in model.state_dict().items() "
    "if 'mask' in key}, 'mask.pt')."
)


def read_reference_mask(path: Path, prunable: PrunableSet) -> Mask:
    """Return the mask in a ``mask.pt``; code in the file is not run.

    The tensors may be of any dtype, from any device, and named with or without the model's
    prefix (``bert.``).

    Args:
        path: The file.
        prunable: The prunable set that the mask must cover, no more and no less.

    Raises:
        SpecError: Every fault found: the file is missing, no torch file or holds code; a matrix
            is missing, unknown, there twice or of another shape; a value is neither 0 nor 1.
    """
    given = _load(path)
    keys, faults = _match(path, given, prunable)
    for name, shape in zip(prunable.names, prunable.shapes, strict=True):
        if name not in keys:
            faults.append(_missing(path, name))
        elif problem := _problem(given[keys[name]], shape):
            faults.append(Fault(str(path), keys[name], problem, "Give the mask of this model."))
    if faults:
        raise SpecError(faults)
    matrices = ((given[keys[name]] != 0).numpy() for name in prunable.names)
    return Mask.from_matrices(prunable, matrices)


def mask_buffers(mask: Mask, prefix: str = "bert.") -> dict[str, torch.Tensor]:
    """Return what the reference code's ``mask.pt`` holds: float32 masks, 1 = kept.

    Args:
        mask: The mask.
        prefix: The backbone's name in the task model, with a dot; empty for a bare backbone.
    """
    return {
        f"{prefix}{name}{_MASK}": torch.from_numpy(mask.matrix(name)).float()
        for name in mask.prunable.names
    }


def pruned_state(
    mask: Mask, weights: Mapping[str, torch.Tensor], prefix: str = "bert."
) -> dict[str, torch.Tensor]:
    """Return the part of a state dict that ``torch.nn.utils.prune`` has for pruned matrices.

    A model pruned in the same matrices loads it with ``load_state_dict``, beside its other
    parameters.

    Args:
        mask: The mask.
        weights: Each of the mask's matrices by canonical name, for example of theta_0, masked or
            not; others are ignored.
        prefix: As for ``mask_buffers``.

    Returns:
        ``weight_orig``, the given tensor itself, and ``weight_mask``, of its dtype and on its
        device, of each matrix.

    Raises:
        MaskMismatchError: Matrices are missing or of another shape; all of them are named.
    """
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    _check_shapes(shapes, mask.prunable, "the weights")
    originals = {f"{prefix}{name}{_ORIGINAL}": weights[name] for name in mask.prunable.names}
    buffers = mask_buffers(mask, prefix).items()
    masks = {
        key: buffer.to(originals[key.removesuffix(_MASK) + _ORIGINAL]) for key, buffer in buffers
    }
    return originals | masks


def apply_mask(model: nn.Module, mask: Mask) -> None:
    """Prune a model's matrices by ``torch.nn.utils.prune.custom_from_mask``.

    Afterwards ``weight`` is ``weight_orig * weight_mask`` in each forward, and
    ``prune.remove(module, "weight")`` makes it permanent.

    Args:
        model: A task model of transformers, or its backbone, not pruned yet; changed in place.
        mask: The mask.

    Raises:
        MaskMismatchError: Matrices are missing or of another shape; all of them are named, and
            nothing is changed.
    """
    parameters = {canonical_name(name): (name, value) for name, value in model.named_parameters()}
    shapes = {name: tuple(value.shape) for name, (_, value) in parameters.items() if name}
    _check_shapes(shapes, mask.prunable, "the model")
    for name in mask.prunable.names:
        full_name, parameter = parameters[name]
        module_name, _, parameter_name = full_name.rpartition(".")
        kept = torch.from_numpy(mask.matrix(name)).to(parameter.device)
        prune.custom_from_mask(  # type: ignore[no-untyped-call]
            model.get_submodule(module_name), parameter_name, kept
        )


def _load(path: Path) -> dict[str, Any]:
    try:
        path.open("rb").close()
    except OSError as error:
        problem = f"cannot be opened: {error.strerror}."
        raise _fault(path, problem, "Give the path of a mask.pt.") from None
    try:
        mapped = zipfile.is_zipfile(path)  # not so before torch 1.6
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # damaged bytes make torch raise almost anything
        kind = type(error).__name__
        problem = f"is no file of tensors by torch.save, or holds code, which is not run ({kind})."
        raise _fault(path, problem, _HOW_TO_SAVE) from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        problem = f"holds a {type(loaded).__name__}, but must hold a dict of tensors by name."
        raise _fault(path, problem, _HOW_TO_SAVE)
    return loaded


def _match(
    path: Path, given: Mapping[str, Any], prunable: PrunableSet
) -> tuple[dict[str, str], list[Fault]]:
    """Return the file's key of each matrix that it has, and faults for all other keys."""
    keys: dict[str, str] = {}
    faults = []
    for key in given:
        name = canonical_name(key.removesuffix(_MASK)) if key.endswith(_MASK) else None
        if name not in prunable.names:
            problem = f"is no mask of a matrix in {describe(prunable)}."
            hint = f"Give the mask of this model and prunable set, and nothing else. {_HOW_TO_SAVE}"
            faults.append(Fault(str(path), key, problem, hint))
        elif name in keys:
            faults.append(
                Fault(str(path), key, f"is the same matrix as {keys[name]}.", "Keep one.")
            )
        else:
            keys[name] = key
    return keys, faults


def _missing(path: Path, name: str) -> Fault:
    hint = "Give the mask of this model and prunable set."
    if name == POOLER:
        hint = "Leave the pooler out of the prunable set ('prunable: encoder'), or add its mask."
    return Fault(str(path), name + _MASK, "is missing.", hint)


def _problem(value: Any, shape: tuple[int, int]) -> str | None:
    """Return what keeps a value from being the mask of a matrix."""
    kind = value.layout if isinstance(value, torch.Tensor) else type(value).__name__
    if kind != torch.strided:
        return f"is {kind}, but must be a dense tensor."
    if tuple(value.shape) != shape:
        return f"has the shape {tuple(value.shape)}, but the model's matrix has {shape}."
    wrong = value[(value != 0) & (value != 1)]
    if len(wrong):
        return f"has {len(wrong)} values that are neither 0 nor 1, the first {wrong[0].item()}."
    return None


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], prunable: PrunableSet, what: str) -> None:
    problems = [
        f"{name} is missing" if name not in shapes else f"{name} has {shapes[name]}, not {shape}"
        for name, shape in zip(prunable.names, prunable.shapes, strict=True)
        if shapes.get(name) != shape
    ]
    if problems:
        raise MaskMismatchError(
            f"A mask over {describe(prunable)} does not fit {what}: {'; '.join(problems)}. "
            "Take mask and weights of one model, not pruned yet."
        )


def _fault(path: Path, problem: str, hint: str) -> SpecError:
    return SpecError([Fault(str(path), "", problem, hint)])
