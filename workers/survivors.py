"""AdamW over the weights that can move: state, clipping norm and exchange for survivors only.

A removed weight is zero before the first step and belongs to no state, so that nothing can move
it: its zero is exact by construction. So is the unused row of an embedding, whose gradient and
moments are zero at every step, as long as no weight decay pulls at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw

from search_spaces.heads import LAYER_NORM_SCALES
from search_spaces.recipes import Recipe, learning_rate_factor
from workers.exchange import Exchange, Gradients
from workers.tracked import Moments, Tensors, Tracked, track

NO_DECAY = ("bias", *LAYER_NORM_SCALES)
_MOMENTS = ("exp_avg", "exp_avg_sq", "num_steps")  # of each parameter


class SurvivorAdamW(torch.optim.Optimizer):
    """torch's fused AdamW, with masks, clipping, schedule and exchange in one optimizer.

    Equal to AdamW on masked gradients that are clipped by their norm (PyTorch's
    ``clip_grad_norm_``), as the reference code of Chen et al. 2020 trains, but in fewer passes:
    no gradient is multiplied by a mask, none is scaled in memory, and no value is read by the
    host. It serves one trial after the other: ``begin`` and ``end``.

    In a gang each parameter has an owner, the one rank that has its moments and updates it
    (docs/decisions/0016). Masters are on all ranks: exact in an fp32 model, and in a bf16 model
    those of other owners are behind after a step, until ``share_masters``.

    Args:
        named: The model's parameters by name, which stay the same for all trials.
        num_ranks: Processes whose gradients are summed; all of them make the same calls.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], num_ranks: int = 1) -> None:
        self._names = {parameter: name for name, parameter in named}
        self._num_ranks = num_ranks
        self._recipe: Recipe | None = None
        self._tracked: dict[nn.Parameter, Tracked] = {}
        self._moments: dict[Tracked, Moments] = {}  # of what this rank owns
        self._exchange = Exchange([], 1)
        self._is_behind = False
        self._num_taken = 0
        self._num_skipped = torch.zeros(())
        super().__init__(list(self._names), {})

    @torch.no_grad()
    def begin(
        self,
        recipe: Recipe,
        values: Tensors,
        survivors: Tensors,
        rows: Tensors,
        num_taken: int = 0,
    ) -> None:
        """Put the model's weights where a trial starts, with moments and step at zero.

        Args:
            recipe: The recipe.
            values: Exact fp32 values of every parameter.
            survivors: Places of the survivors of each pruned matrix.
            rows: Rows of embeddings that can get a gradient; used if nothing decays the others.
            num_taken: Steps of the recipe that lie behind: where the learning rate goes on.
        """
        self.end()
        self._recipe, self._num_taken = recipe, num_taken
        rows = {} if recipe.weight_decay else rows
        for parameter in self._names:
            exact = values[parameter].to(parameter.device)
            self._tracked[parameter] = track(parameter, exact, survivors, rows)
        self._exchange = Exchange(list(self._tracked.values()), self._num_ranks)
        owned = filter(self._exchange.owns, self._tracked.values())
        self._moments = {tracked: tracked.first_moments() for tracked in owned}
        self._num_skipped = torch.zeros((), device=exact.device)

    def end(self) -> None:
        """Forget the trial, and free its state and gradients."""
        self._tracked, self._moments, self._recipe = {}, {}, None
        self._exchange, self._is_behind = Exchange([], 1), False
        for parameter in self._names:
            parameter.grad = None

    @property
    def num_skipped(self) -> torch.Tensor:
        """Updates that were left out as the gradient was not finite; a scalar on the device."""
        return self._num_skipped

    @property
    def num_moving(self) -> int:
        """Weights that can move: masters, and over all ranks moments of each kind."""
        return sum(tracked.master.numel() for tracked in self._tracked.values())

    @torch.no_grad()
    def master(self, parameter: nn.Parameter) -> torch.Tensor:
        """Return a parameter's fp32 masters, the removed ones +0.0; valid until the next step."""
        assert not self._is_behind, "master before share_masters"
        return self._tracked[parameter].whole_master()

    @property
    def num_taken(self) -> int:
        """Steps of the recipe that lie behind."""
        return self._num_taken

    @torch.no_grad()
    def share_masters(self) -> None:
        """Bring all ranks the masters of all owners, which they need for ``master``."""
        if self._is_behind:
            behind = [tracked for tracked in self._tracked.values() if not tracked.is_exact]
            self._exchange.share_masters(behind)
            self._is_behind = False

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Return what the next step depends on and this rank owns, but its number, by name.

        These are the optimizer's own tensors, valid until the next step. All ranks' together are
        the whole state.
        """
        found = {"num_skipped": self._num_skipped}
        for parameter, tracked in self._tracked.items():
            if moments := self._moments.get(tracked):
                name = self._names[parameter]
                found[f"master/{name}"] = tracked.master
                found |= {f"{kind}/{name}": getattr(moments, kind) for kind in _MOMENTS}
        return found

    def common_tensors(self) -> dict[str, torch.Tensor]:
        """Return what all ranks must have alike, by name: the weights that the model computes with.

        These are the model's own tensors, valid until the next step.
        """
        found = {name: parameter.detach() for parameter, name in self._names.items()}
        return found | {"num_skipped": self._num_skipped}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor], num_taken: int) -> None:
        """Put everything where it stood after some step of the same trial, on all ranks at once.

        Args:
            tensors: What ``state_tensors`` returned, of the same names and shapes.
            num_taken: As it was then.
        """
        for name, tensor in self.state_tensors().items():
            tensor.copy_(tensors[name])
        self._exchange.share_masters(self._tracked.values())
        self._is_behind = False
        for tracked in self._tracked.values():
            tracked.write()
        self._num_taken = num_taken

    def collect(self) -> None:
        """Take the gradients of one micro-batch and free them."""
        self._exchange.open()
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
        sums = self._exchange.take_sums()
        norm = self._exchange.total_norm(sums)
        is_bad = (~torch.isfinite(norm)).float()
        self._num_skipped += is_bad
        scale = None
        if recipe.max_grad_norm:  # clip_grad_norm_ has this epsilon too
            scale = ((norm + 1e-6) / recipe.max_grad_norm).clamp(min=1.0)
        learning_rate = recipe.learning_rate * learning_rate_factor(self._num_taken, recipe)
        for weight_decay in {0.0, recipe.weight_decay}:
            part = [one for one in sums.own if self._decay(one[0].parameter) == weight_decay]
            self._update(part, recipe, learning_rate, weight_decay, scale, is_bad)
        self._exchange.send(sums)
        self._is_behind = self._num_ranks > 1 and not all(one.is_exact for one in sums.live)
        self._num_taken += 1

    def _decay(self, parameter: nn.Parameter) -> float:
        """Return the weight decay: on matrices and embeddings, none on biases and LayerNorm."""
        assert self._recipe is not None
        return 0.0 if self._names[parameter].endswith(NO_DECAY) else self._recipe.weight_decay

    def _update(
        self,
        part: Gradients,
        recipe: Recipe,
        learning_rate: float,
        weight_decay: float,
        scale: torch.Tensor | None,
        is_bad: torch.Tensor,
    ) -> None:
        """Take one step of AdamW; the kernel divides by ``scale`` and skips where ``is_bad``."""
        if not part:  # in a gang of more ranks than such tensors
            return
        moments = [self._moments[tracked] for tracked, _ in part]
        adamw(
            [tracked.master for tracked, _ in part],
            [gradient for _, gradient in part],
            [one.exp_avg for one in moments],
            [one.exp_avg_sq for one in moments],
            [],
            [one.num_steps for one in moments],
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
