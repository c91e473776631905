"""One parameter under training: which of its weights can move, their masters and moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

Tensors: TypeAlias = Mapping[nn.Parameter, torch.Tensor]


@dataclass(frozen=True)
class Moments:
    """What AdamW keeps of a parameter beside its masters, on the rank that updates it.

    Attributes:
        exp_avg: First moments, in the master's shape.
        exp_avg_sq: Second moments, likewise.
        num_steps: Updates taken, a scalar tensor.
    """

    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    num_steps: torch.Tensor


class Tracked:
    """One parameter's weights that can move, with their fp32 masters.

    Args:
        parameter: What the model computes with, fp32 or bf16; set to ``values``.
        values: Exact fp32 values to start from, in the parameter's shape.

    Attributes:
        master: fp32 masters; the parameter itself where it is fp32 and all of it can move.
        slot: Where a step's gradient shall travel from, in the master's shape and the parameter's
            dtype; None: nowhere.
    """

    def __init__(self, parameter: nn.Parameter, values: torch.Tensor) -> None:
        self.parameter = parameter
        self.master = self._first_master(values)
        self.slot: torch.Tensor | None = None
        self._sum: torch.Tensor | None = None

    def first_moments(self) -> Moments:
        """Return the moments before the first step."""
        zeros = torch.zeros((), device=self.master.device)
        return Moments(torch.zeros_like(self.master), torch.zeros_like(self.master), zeros)

    def collect(self) -> None:
        """Add the parameter's gradient to what the step will see, and free it."""
        gradient, self.parameter.grad = self.parameter.grad, None
        if gradient is None:
            return
        if self._sum is None:  # in the parameter's dtype: exact for one micro-batch alone
            self._sum = self._select(gradient, self.slot)
        else:
            self._sum = self._sum.float().add_(self._select(gradient))

    def take_gradient(self) -> torch.Tensor | None:
        """Return the collected gradient, in the master's shape, and forget it.

        Where there is a slot it is there, rounded once; else it is fp32.
        """
        gradient, self._sum = self._sum, None
        if gradient is None or self.slot is None:
            return gradient if gradient is None else gradient.float()
        return gradient if gradient is self.slot else self.slot.copy_(gradient)

    def _first_master(self, values: torch.Tensor) -> torch.Tensor:
        self.parameter.copy_(values)
        return self.parameter.detach()

    def _select(self, gradient: torch.Tensor, slot: torch.Tensor | None = None) -> torch.Tensor:
        """Return the part of a gradient that counts, in the slot where that saves a copy."""
        return gradient if slot is None else slot.copy_(gradient)

    def write(self) -> None:
        """Give the masters' values to the model."""
        self._put(self.master)

    def receive(self, values: torch.Tensor) -> None:
        """Take the model's new values, in the master's shape and the model's dtype.

        Masters of a bf16 model stay behind: what was rounded is not known here.
        """
        if self.is_exact:
            self.master.copy_(values)
        self._put(values)

    def _put(self, values: torch.Tensor) -> None:
        """Give values to the model; nothing to do where the masters are the model's."""

    def whole_master(self) -> torch.Tensor:
        """Return the parameter's fp32 masters; the removed ones are +0.0."""
        return self.master

    @property
    def is_exact(self) -> bool:
        """Whether the model is in fp32 and so, as every step ends with ``write``, the masters."""
        return self.parameter.dtype == torch.float32


class Rounded(Tracked):
    """A parameter in bf16, all of whose weights can move."""

    def _first_master(self, values: torch.Tensor) -> torch.Tensor:
        self.parameter.copy_(values)
        return values.clone()

    def _put(self, values: torch.Tensor) -> None:
        """Round them."""
        self.parameter.copy_(values)


class Survivors(Tracked):
    """A pruned matrix: only its surviving weights are here, as one vector.

    Args:
        parameter: See ``Tracked``.
        values: See ``Tracked``.
        places: Where the survivors stand, row-major, int64, ascending.
    """

    def __init__(self, parameter: nn.Parameter, values: torch.Tensor, places: torch.Tensor):
        self._places = places
        super().__init__(parameter, values)
        self.parameter.zero_()
        self.write()

    def _first_master(self, values: torch.Tensor) -> torch.Tensor:
        return values.flatten().index_select(0, self._places)

    def _select(self, gradient: torch.Tensor, slot: torch.Tensor | None = None) -> torch.Tensor:
        taken = torch.index_select(gradient.flatten(), 0, self._places, out=slot)
        return taken if slot is None else slot

    def _put(self, values: torch.Tensor) -> None:
        """Put the survivors into their places; no other weight is touched."""
        self.parameter.view(-1).scatter_(0, self._places, values.to(self.parameter.dtype))

    def whole_master(self) -> torch.Tensor:
        """Return the whole matrix."""
        if self.is_exact:
            return self.parameter.detach()
        whole = torch.zeros(self.parameter.numel(), device=self.master.device)
        return whole.scatter_(0, self._places, self.master).view_as(self.parameter)


class UsedRows(Tracked):
    """An embedding whose other rows never get a gradient: only the used rows are here.

    Args:
        parameter: See ``Tracked``.
        values: See ``Tracked``; kept as long as this object.
        rows: The rows that can get one, int64, ascending.
    """

    def __init__(self, parameter: nn.Parameter, values: torch.Tensor, rows: torch.Tensor):
        self._rows, self._values = rows, values
        self._place_of_row = torch.full((len(parameter),), -1, device=rows.device)
        self._place_of_row[rows] = torch.arange(len(rows), device=rows.device)
        super().__init__(parameter, values)

    def _first_master(self, values: torch.Tensor) -> torch.Tensor:
        self.parameter.copy_(values)
        return values.index_select(0, self._rows)

    def _select(self, gradient: torch.Tensor, slot: torch.Tensor | None = None) -> torch.Tensor:
        if not gradient.is_sparse:
            taken = torch.index_select(gradient, 0, self._rows, out=slot)
            return taken if slot is None else slot
        places = self._place_of_row[gradient._indices()[0]]  # -1, for another row, is refused
        part = torch.zeros_like(self.master)
        return part.index_add_(0, places, gradient._values().float())

    def _put(self, values: torch.Tensor) -> None:
        """Put the rows into their places; no other row is touched."""
        self.parameter.index_copy_(0, self._rows, values.to(self.parameter.dtype))

    def whole_master(self) -> torch.Tensor:
        """Return the whole embedding; unused rows are as they began."""
        if self.is_exact:
            return self.parameter.detach()
        return self._values.index_copy(0, self._rows, self.master)


def track(
    parameter: nn.Parameter, values: torch.Tensor, survivors: Tensors, rows: Tensors
) -> Tracked:
    """Return what follows a parameter from its exact fp32 values on.

    Args:
        parameter: Set to its values.
        values: In its shape; on any device.
        survivors: Places of the survivors of each pruned matrix.
        rows: Rows of embeddings that can get a gradient.
    """
    if parameter in survivors:
        return Survivors(parameter, values, survivors[parameter].to(parameter.device))
    if parameter in rows:
        return UsedRows(parameter, values, rows[parameter].to(parameter.device))
    return (Tracked if parameter.dtype == torch.float32 else Rounded)(parameter, values)
