"""bf16 on a CPU without instructions for it: what AMX would return, at the speed of fp32."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from workers.emulated import WideProducts

SIZES = st.integers(1, 24)


def bf16(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).bfloat16()


@given(SIZES, SIZES, SIZES, st.integers(0, 2**31))
def test_a_product_is_the_exact_one_rounded_once(m: int, k: int, n: int, seed: int) -> None:
    """Within half a unit of bf16 of the product in fp64, but for fp32's own rounding."""
    torch.manual_seed(seed)
    a, b, bias = bf16(m, k), bf16(k, n), bf16(n)
    exact = a.double() @ b.double()
    with WideProducts():
        found = {
            "mm": (torch.mm(a, b), exact),
            "addmm": (torch.addmm(bias, a, b), exact + bias.double()),
            "bmm": (torch.bmm(a[None], b[None])[0], exact),
            "linear": (nn.functional.linear(a, b.t(), bias), exact + bias.double()),
        }
    for name, (product, expected) in found.items():
        assert product.dtype == torch.bfloat16, name
        room = expected.abs() * 2**-8 + (a.double().abs() @ b.double().abs()) * 2**-20 + 1e-6
        assert ((product.double() - expected).abs() <= room).all(), name


def test_without_gradients_products_are_the_same() -> None:
    """Evaluation sees whole operations, training their parts: the same bits come out of both."""
    torch.manual_seed(1)
    linear, x = nn.Linear(33, 17).bfloat16(), bf16(5, 33)
    q = bf16(2, 4, 9, 8)
    attend = nn.functional.scaled_dot_product_attention
    with WideProducts():
        trained, attended = linear(x), attend(q, q, q)
        with torch.inference_mode():
            assert torch.equal(linear(x), trained)
            assert torch.equal(attend(q, q, q), attended)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gradients_are_near_those_of_fp32(dropout: float) -> None:
    """Through a linear layer and attention, forwards and backwards, in bf16 and within its room."""
    torch.manual_seed(2)
    weight, x = torch.randn(8, 8) / 3, torch.randn(2, 3, 7, 8)
    gradients = {}
    for dtype in (torch.float32, torch.bfloat16):
        w, states = (one.detach().to(dtype, copy=True).requires_grad_() for one in (weight, x))
        torch.manual_seed(3)
        with WideProducts():
            q = states @ w
            out = nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=dropout)
            out.float().square().sum().backward()
        assert w.grad is not None and w.grad.dtype == dtype
        gradients[dtype] = w.grad.float()
    reference, found = gradients[torch.float32], gradients[torch.bfloat16]
    assert (found - reference).norm() < 0.03 * reference.norm()


def test_fp32_is_left_alone() -> None:
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    with WideProducts():
        assert torch.equal(a @ b, torch.mm(a, b))
        assert (a @ b).dtype == torch.float32
