"""A ticket in memory: theta_0 under a mask as a model of transformers, ready to fine-tune."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from search_spaces.canonical import short
from search_spaces.checkpoint import backbone_entries, iter_parameters, theta0_sha256
from search_spaces.errors import UserError
from search_spaces.models import FAMILIES, check_names, config_sha256, num_layers_of, read_config
from search_spaces.prunable import POOLER, prunable_set
from search_spaces.ticket_info import TicketInfo
from workers.arrays import as_tensors
from workers.mask import Mask, MaskMismatchError
from workers.mask_file import MaskFileError, mask_metadata, read_mask

_OTHER_MODEL = "Name the model that the ticket was found in: model=, source and revision."


@dataclass(frozen=True)
class Ticket:
    """A mask and the model that it is applied to, both checked by content.

    Attributes:
        model: Of transformers, fp32, on the CPU, in eval mode as ``from_pretrained`` returns it.
            Masked weights are exactly +0.0, all others of the checkpoint's backbone are theta_0;
            what the checkpoint lacks (a head, perhaps the pooler) is drawn from torch's generator.
        mask: Which weights are kept.
        metadata: What ``ticket.json`` says; None for a bare mask file.
        folder: The pre-trained model's files, for example for its tokenizer.
    """

    model: Any
    mask: Mask
    metadata: TicketInfo | None
    folder: Path

    def keep_zeros(self) -> list[RemovableHandle]:
        """Make gradients of masked weights 0, so that the weights stay 0 under an optimizer.

        Holds for any optimizer of torch whose step is 0 where weight and gradients always were:
        SGD with or without momentum, the Adam family, with weight decay too. Call it before
        training, on any device.

        Returns:
            Handles; ``remove()`` of each ends it.
        """
        parameters = masked_parameters(self.model, self.mask)
        return [
            parameter.register_hook(_Zeroing(removed))  # type: ignore[no-untyped-call]
            for parameter, removed in parameters
        ]

    def num_revived(self) -> int:
        """Return how many masked weights are not 0: 0 as long as the zeros were kept."""
        parameters = masked_parameters(self.model, self.mask)
        return sum(
            int(torch.count_nonzero(parameter.detach().cpu()[removed]))
            for parameter, removed in parameters
        )


class _Zeroing:
    """A hook that puts 0 where a mask removed, on whatever device the gradient is."""

    def __init__(self, removed: torch.Tensor) -> None:
        self._removed = removed

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        self._removed = self._removed.to(gradient.device)
        # Not a product with the mask: NaN * 0 is NaN.
        return gradient.masked_fill(self._removed, 0)


def make_ticket(
    data: bytes,
    place: str,
    folder: Path,
    info: TicketInfo | None = None,
    mask_sha256: str | None = None,
    num_labels: int | None = None,
) -> Ticket:
    """Return the ticket of a mask file and a model's files.

    Args:
        data: The mask file's bytes.
        place: Names the mask file in messages.
        folder: The pre-trained model.
        info: What the model must be by content; None = what the mask file notes.
        mask_sha256: That the mask must have; None = any.
        num_labels: Outputs of a fresh classification head; None = the backbone alone.

    Raises:
        SpecError: The model's files are missing, damaged, or no supported BERT.
        UserError: The mask file is damaged, or mask and model do not belong together.
    """
    wanted = info.model.identity if info else None
    try:
        noted = mask_metadata(data, place).get("theta0_sha256")
        mask = read_mask(data, None, place)
    except MaskFileError as error:
        raise UserError(f"{error} Or get the ticket again.") from error
    _check("mask", mask_sha256, mask.sha256, place, "Get the ticket again.")
    config, entries = read_config(folder), backbone_entries(folder)
    expected = wanted.theta0_sha256 if wanted else noted
    _check("theta_0", expected, theta0_sha256(folder), str(folder), _OTHER_MODEL)
    _check_prunable(folder, config, {n: e.shape for n, e in entries.items()}, mask, place)
    if wanted:
        _check("prunable set", wanted.prunable_sha256, mask.prunable.sha256, place, _OTHER_MODEL)
        found = config_sha256(config)
        _check("configuration", wanted.config_sha256, found, str(folder), _OTHER_MODEL)
    return Ticket(_model(folder, mask, num_labels), mask, info, folder)


def masked_parameters(model: Any, mask: Mask) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
    """Yield each prunable parameter of a model and where it is removed: bool, of its shape."""
    parameters = dict(_backbone(model).named_parameters())
    for name in mask.prunable.names:
        yield parameters[name], torch.from_numpy(~mask.matrix(name))


def _model(folder: Path, mask: Mask, num_labels: int | None) -> Any:
    """Return a model of transformers at theta_0 x mask."""
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    if num_labels is None:
        model = AutoModel.from_config(config).float()
    else:
        config.num_labels = num_labels
        model = AutoModelForSequenceClassification.from_config(config).float()
    parameters = dict(_backbone(model).named_parameters())
    theta0 = as_tensors(dict(iter_parameters(folder)))
    check_names(folder, parameters, theta0)
    with torch.no_grad():
        for name in sorted(parameters.keys() & theta0.keys()):
            _check_shape(folder, name, parameters[name].shape, theta0[name].shape)
            parameters[name].copy_(theta0[name])
        for parameter, removed in masked_parameters(model, mask):
            parameter.masked_fill_(removed, 0.0)
    return model.eval()


def _backbone(model: Any) -> Any:
    return getattr(model, FAMILIES[model.config.model_type].prefix, model)


def _check_shape(folder: Path, name: str, expected: torch.Size, found: torch.Size) -> None:
    if expected != found:  # copying would broadcast it
        raise UserError(
            f"{folder}: {name} has the shape {tuple(found)}, but must have {tuple(expected)} by "
            "config.json. Copy config.json and the weights of one model."
        )


def _check_prunable(
    folder: Path,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    mask: Mask,
    place: str,
) -> None:
    """Refuse a mask over other matrices than the model's, with the pooler where the mask has it."""
    has_pooler = POOLER in shapes and FAMILIES[config["model_type"]].has_pooler
    with_pooler = mask.prunable.has_pooler and has_pooler
    expected = prunable_set(shapes, num_layers_of(config), with_pooler)
    try:
        mask.check_comparable(Mask.ones(expected))
    except MaskMismatchError:
        here, there = mask.prunable, expected
        raise UserError(
            f"{place}: a mask over another prunable set: {len(here.names)} matrices with "
            f"{here.num_weights:,} weights ({short(here.sha256)}), but {folder} has "
            f"{len(there.names)} with {there.num_weights:,} ({short(there.sha256)}). {_OTHER_MODEL}"
        ) from None


def _check(what: str, expected: str | None, found: str, place: str, hint: str) -> None:
    if expected not in (None, found):
        raise UserError(
            f"{place}: another {what} than the ticket's: expected sha256 {expected}, found "
            f"{found}. {hint}"
        )
