"""AdamW over the weights that can move: state, clipping norm and all-reduce for survivors only.

A removed weight is zero before the first step and belongs to no state, so that nothing can move
it: its zero is exact by construction. So is the unused row of an embedding, whose gradient and
moments are zero at every step, as long as no weight decay pulls at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from deepspeed import comm
from torch import nn
from torch.optim.adamw import adamw

from search_spaces.recipes import Recipe, learning_rate_factor

NO_DECAY = ("bias", "LayerNorm.weight")
Tensors: TypeAlias = Mapping[nn.Parameter, torch.Tensor]


class Tracked:
    """One parameter's weights that can move, with their fp32 masters and moments.

    Args:
        parameter: What the model computes with, fp32 or bf16; set to ``values``.
        values: Exact fp32 values to start from, in the parameter's shape.

    Attributes:
        master: fp32 masters; the parameter itself where it is fp32 and all of it can move.
        exp_avg: First moments, in the master's shape.
        exp_avg_sq: Second moments, likewise.
        num_steps: Updates taken, a scalar tensor.
    """

    def __init__(self, parameter: nn.Parameter, values: torch.Tensor) -> None:
        self.parameter = parameter
        self.master = self._first_master(values)
        self.exp_avg = torch.zeros_like(self.master)
        self.exp_avg_sq = torch.zeros_like(self.master)
        self.num_steps = torch.zeros((), device=self.master.device)
        self._sum: torch.Tensor | None = None

    def collect(self) -> None:
        """Add the parameter's gradient to what the step will see, and free it."""
        gradient, self.parameter.grad = self.parameter.grad, None
        if gradient is not None:
            part = self._select(gradient)
            self._sum = part if self._sum is None else self._sum.add_(part)

    def take_gradient(self) -> torch.Tensor | None:
        """Return the collected gradient, in the master's shape, and forget it."""
        gradient, self._sum = self._sum, None
        return gradient

    def _first_master(self, values: torch.Tensor) -> torch.Tensor:
        self.parameter.copy_(values)
        return self.parameter.detach()

    def _select(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient

    def write(self) -> None:
        """Give the masters' values to the model; nothing to do where they are the model's."""

    def whole_master(self) -> torch.Tensor:
        """Return the parameter's fp32 masters; the removed ones are +0.0."""
        return self.master


class Rounded(Tracked):
    """A parameter in bf16, all of whose weights can move."""

    def _first_master(self, values: torch.Tensor) -> torch.Tensor:
        self.parameter.copy_(values)
        return values.clone()

    def _select(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.float()

    def write(self) -> None:
        """Round the masters."""
        self.parameter.copy_(self.master)


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

    def _select(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.flatten().index_select(0, self._places).float()

    def write(self) -> None:
        """Put the survivors into their places; no other weight is touched."""
        values = self.master.to(self.parameter.dtype)
        self.parameter.view(-1).scatter_(0, self._places, values)

    def whole_master(self) -> torch.Tensor:
        """Return the whole matrix."""
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

    def _select(self, gradient: torch.Tensor) -> torch.Tensor:
        if not gradient.is_sparse:
            return gradient.index_select(0, self._rows).float()
        places = self._place_of_row[gradient._indices()[0]]  # -1, for another row, is refused
        part = torch.zeros_like(self.master)
        return part.index_add_(0, places, gradient._values().float())

    def write(self) -> None:
        """Put the rows into their places; no other row is touched."""
        self.parameter.index_copy_(0, self._rows, self.master.to(self.parameter.dtype))

    def whole_master(self) -> torch.Tensor:
        """Return the whole embedding; unused rows are as they began."""
        return self._values.index_copy(0, self._rows, self.master)


class SurvivorAdamW(torch.optim.Optimizer):
    """torch's fused AdamW, with masks, clipping, schedule and all-reduce in one optimizer.

    Equal to AdamW on masked gradients that are clipped by their norm (PyTorch's
    ``clip_grad_norm_``), as the reference code of Chen et al. 2020 trains, but in fewer passes:
    no gradient is multiplied by a mask, none is scaled in memory, and no value is read by the
    host. It serves one trial after the other: ``begin`` and ``end``.

    Args:
        named: The model's parameters by name, which stay the same for all trials.
        num_ranks: Processes whose gradients are summed.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], num_ranks: int = 1) -> None:
        self._names = {parameter: name for name, parameter in named}
        self._num_ranks = num_ranks
        self._recipe: Recipe | None = None
        self._tracked: dict[nn.Parameter, Tracked] = {}
        self._num_taken = 0
        self._num_skipped = torch.zeros(())
        super().__init__(list(self._names), {})

    @torch.no_grad()
    def begin(self, recipe: Recipe, values: Tensors, survivors: Tensors, rows: Tensors) -> None:
        """Put the model's weights where a trial starts, with moments and step at zero.

        Args:
            recipe: The recipe.
            values: Exact fp32 values of every parameter.
            survivors: Places of the survivors of each pruned matrix.
            rows: Rows of embeddings that can get a gradient; used if nothing decays the others.
        """
        self.end()
        self._recipe, self._num_taken = recipe, 0
        rows = {} if recipe.weight_decay else rows
        for parameter in self._names:
            exact = values[parameter].to(parameter.device)
            self._tracked[parameter] = _track(parameter, exact, survivors, rows)
        self._num_skipped = torch.zeros((), device=exact.device)

    def end(self) -> None:
        """Forget the trial, and free its state and gradients."""
        self._tracked, self._recipe = {}, None
        for parameter in self._names:
            parameter.grad = None

    @property
    def num_skipped(self) -> torch.Tensor:
        """Updates that were left out as the gradient was not finite; a scalar on the device."""
        return self._num_skipped

    @property
    def num_moving(self) -> int:
        """Weights that can move: masters, and moments of each kind."""
        return sum(tracked.master.numel() for tracked in self._tracked.values())

    def master(self, parameter: nn.Parameter) -> torch.Tensor:
        """Return a parameter's fp32 masters, the removed ones +0.0; valid until the next step."""
        return self._tracked[parameter].whole_master()

    def collect(self) -> None:
        """Take the gradients of one micro-batch and free them."""
        for tracked in self._tracked.values():
            tracked.collect()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update the weights by the collected gradients' sum over micro-batches and ranks.

        Args:
            closure: Not used; part of torch's interface.
        """
        recipe = self._recipe
        assert recipe is not None, "step before begin"
        found = [(tracked, tracked.take_gradient()) for tracked in self._tracked.values()]
        live = [(tracked, gradient) for tracked, gradient in found if gradient is not None]
        gradients = [gradient for _, gradient in live]
        if self._num_ranks > 1:
            gradients = _summed_over_ranks(gradients)
        norm = nn.utils.get_total_norm(gradients)
        is_bad = (~torch.isfinite(norm)).float()
        self._num_skipped += is_bad
        scale = None
        if recipe.max_grad_norm:  # clip_grad_norm_ has this epsilon too
            scale = ((norm + 1e-6) / recipe.max_grad_norm).clamp(min=1.0)
        learning_rate = recipe.learning_rate * learning_rate_factor(self._num_taken, recipe)
        for weight_decay in {0.0, recipe.weight_decay}:
            part = [
                (tracked, gradient)
                for (tracked, _), gradient in zip(live, gradients, strict=True)
                if self._decay(tracked.parameter) == weight_decay
            ]
            _update(part, recipe, learning_rate, weight_decay, scale, is_bad)
        for tracked, _ in live:
            tracked.write()
        self._num_taken += 1

    def _decay(self, parameter: nn.Parameter) -> float:
        """Return the weight decay: on matrices and embeddings, none on biases and LayerNorm."""
        assert self._recipe is not None
        return 0.0 if self._names[parameter].endswith(NO_DECAY) else self._recipe.weight_decay


def _track(
    parameter: nn.Parameter, values: torch.Tensor, survivors: Tensors, rows: Tensors
) -> Tracked:
    if parameter in survivors:
        return Survivors(parameter, values, survivors[parameter].to(parameter.device))
    if parameter in rows:
        return UsedRows(parameter, values, rows[parameter].to(parameter.device))
    return (Tracked if parameter.dtype == torch.float32 else Rounded)(parameter, values)


def _summed_over_ranks(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """Sum over ranks in one call; survivors travel, removed weights do not."""
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    comm.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]


def _update(
    part: list[tuple[Tracked, torch.Tensor]],
    recipe: Recipe,
    learning_rate: float,
    weight_decay: float,
    scale: torch.Tensor | None,
    is_bad: torch.Tensor,
) -> None:
    """Take one step of AdamW; the kernel divides by ``scale`` and skips where ``is_bad``."""
    adamw(
        [tracked.master for tracked, _ in part],
        [gradient for _, gradient in part],
        [tracked.exp_avg for tracked, _ in part],
        [tracked.exp_avg_sq for tracked, _ in part],
        [],
        [tracked.num_steps for tracked, _ in part],
        fused=True,
        grad_scale=scale,
        found_inf=is_bad,
        amsgrad=False,
        beta1=recipe.adam_beta1,
        beta2=recipe.adam_beta2,
        lr=learning_rate,
        weight_decay=weight_decay,
        eps=recipe.adam_epsilon,
        maximize=False,
    )
