"""The DeepSpeed engine of one trial, and masks that survive it bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import deepspeed
import numpy as np
import numpy.typing as npt
import torch
from deepspeed.utils import safe_set_full_fp32_param
from torch import nn

from search_spaces.recipes import Recipe, learning_rate_factor

logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
NO_DECAY = ("bias", "LayerNorm.weight")


def apply_masks(
    parameters: Mapping[str, nn.Parameter], removed: Mapping[str, torch.Tensor]
) -> None:
    """Zero removed weights and keep their gradients zero.

    Must come before the engine, which copies its fp32 masters from these weights. ``masked_fill``
    and not a product: a product leaves -0.0 and turns an infinite gradient into NaN.

    Args:
        parameters: By canonical name.
        removed: True where a weight is removed, by canonical name, in the parameter's shape.
    """
    for name, where in removed.items():
        parameter = parameters[name]
        with torch.no_grad():
            parameter.masked_fill_(where, 0.0)
        parameter.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient, where=where: gradient.masked_fill(where, 0.0)
        )


def make_engine(model: nn.Module, recipe: Recipe, micro_batch_size: int, num_ranks: int) -> Any:
    """Return a DeepSpeed engine: ZeRO 1 and torch's AdamW, so that nothing is compiled on CPU.

    Its fp32 masters hold the model's own fp32 weights, whatever the dtype of compute.

    Args:
        model: Already masked.
        recipe: The recipe.
        micro_batch_size: Examples of one rank's forward pass.
        num_ranks: Processes of the gang.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay),
        lr=recipe.learning_rate,
        betas=(recipe.adam_beta1, recipe.adam_beta2),
        eps=recipe.adam_epsilon,
        fused=True,  # one pass over the weights, on CPU too
    )
    exact = {} if recipe.dtype == "fp32" else copies(model)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=lambda inner: torch.optim.lr_scheduler.LambdaLR(
            inner, lambda step: learning_rate_factor(step, recipe)
        ),
        config={
            "train_batch_size": recipe.batch_size,
            "train_micro_batch_size_per_gpu": micro_batch_size,
            "gradient_accumulation_steps": recipe.batch_size // (micro_batch_size * num_ranks),
            "gradient_clipping": recipe.max_grad_norm,
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": recipe.dtype == "bf16"},
            "steps_per_print": 10**9,
        },
        dist_init_required=False,
    )
    for parameter, values in exact.items():  # DeepSpeed made its masters from the rounded weights
        safe_set_full_fp32_param(parameter, values)
    return engine


def copies(model: nn.Module) -> dict[nn.Parameter, torch.Tensor]:
    """Return copies of the parameters' values."""
    return {parameter: parameter.detach().clone() for parameter in model.parameters()}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the parameters: decay on matrices and embeddings, none on biases and LayerNorm."""
    named = list(model.named_parameters())
    decayed = [p for name, p in named if not name.endswith(NO_DECAY)]
    plain = [p for name, p in named if name.endswith(NO_DECAY)]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def masters(parameters: Mapping[str, nn.Parameter]) -> dict[str, npt.NDArray[np.float32]]:
    """Return copies of the engine's fp32 masters; every rank must call this."""
    return {name: _master(parameter).cpu().numpy() for name, parameter in parameters.items()}


def _master(parameter: Any) -> torch.Tensor:
    """Return one master, whose parts lie on several ranks under ZeRO 1.

    DeepSpeed's own ``safe_get_full_fp32_param`` sums floats over ranks, which turns -0.0 into
    +0.0; a sum of bits does not. Fragments are internal: deepspeed is pinned.
    """
    bits = torch.zeros(parameter.numel(), dtype=torch.int32, device=parameter.device)
    fragment = parameter._hp_mapping
    if fragment is not None:  # this rank holds a part
        place = fragment.lp_fragment_address
        own = fragment.hp_fragment.detach().view(torch.int32)
        bits[place.start : place.start + place.numel] = own
    torch.distributed.all_reduce(bits)
    return bits.view(torch.float32).reshape(parameter.shape)
