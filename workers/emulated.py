"""Products of bf16 matrices on a CPU that has no instructions for them.

torch's own loop for such a CPU takes many times as long as fp32. What AMX and AVX512-BF16 do
is multiply bf16, add up in fp32 and round once; the same comes of the fp32 product of the widened
matrices, at the speed of fp32. Everything else is torch's own arithmetic in bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
_ATTENTION = _ATEN._scaled_dot_product_flash_attention_for_cpu
_PRODUCTS = frozenset(
    {
        _ATEN.mm.default,
        _ATEN.bmm.default,
        _ATEN.addmm.default,
        _ATTENTION.default,
        _ATEN._scaled_dot_product_flash_attention_for_cpu_backward.default,
        # seen whole where no gradients are kept
        _ATEN.linear.default,
        _ATEN.matmul.default,
        _ATEN.scaled_dot_product_attention.default,
    }
)


class WideProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, products of bf16 tensors are computed in fp32 and rounded to bf16 once."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func not in _PRODUCTS or args[0].dtype != torch.bfloat16:
            return func(*args, **given)
        found = func(*map(_widened, args), **{name: _widened(one) for name, one in given.items()})
        if isinstance(found, torch.Tensor):
            return found.bfloat16()
        if func is _ATTENTION.default:  # its sums of exponentials are fp32 by themselves
            return found[0].bfloat16(), *found[1:]
        return tuple(one.bfloat16() for one in found)


def _widened(value: Any) -> Any:
    is_bf16 = isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16
    return value.float() if is_bf16 else value
