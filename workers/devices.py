"""Which dtypes a device computes by itself, and what happens where bf16 is none of them."""

from __future__ import annotations

import logging
from functools import cache

import torch

from search_spaces.contracts import FailureClass
from workers.failures import TrialFailure

_log = logging.getLogger(__name__)
# x86: AVX512-BF16 or AMX; ARM: BF16. Names as torch.cpu has them.
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16")


def check_dtype(dtype: str, device: torch.device) -> None:
    """Say once for each process that bf16 is emulated on a CPU; refuse a GPU without it.

    An emulated trial has bf16 weights and states all the same (``workers/emulated.py``): only its
    time differs from that of a CPU which has the instructions, and bits, as between any two CPUs.

    Args:
        dtype: A recipe's: "fp32" or "bf16".
        device: What computes.

    Raises:
        TrialFailure: The GPU has no bf16 (a user error).
    """
    if is_emulated(dtype, device):
        return _warn_once()
    if dtype != "bf16" or has_bf16(device):
        return
    message = (
        f"recipe.dtype is bf16, but {torch.cuda.get_device_name(device)} does not compute in it. "
        "Write dtype: fp32, or use a GPU of compute capability 8.0 (Ampere) or higher."
    )
    raise TrialFailure(FailureClass.USER_ERROR, message)


def is_emulated(dtype: str, device: torch.device) -> bool:
    """Return whether a device computes in a dtype by way of another one."""
    return dtype == "bf16" and device.type == "cpu" and not has_bf16(device)


def arithmetic(dtype: str, device: torch.device) -> str:
    """Return a dtype's name in the numerics class: emulated, its bits are others."""
    return f"{dtype}, emulated" if is_emulated(dtype, device) else dtype


def has_bf16(device: torch.device) -> bool:
    """Return whether a CPU or a CUDA device has instructions for bf16."""
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return any(found.get(name) for name in _CPU_BF16)
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@cache
def _warn_once() -> None:
    _log.warning(
        "recipe.dtype is bf16, but this CPU has neither AVX512-BF16 nor AMX: bf16 is emulated, "
        "and a step takes longer than in fp32. Write dtype: fp32, or run on a GPU or on a CPU "
        "that has them (Xeon from Sapphire Rapids, EPYC from Zen 4)."
    )
