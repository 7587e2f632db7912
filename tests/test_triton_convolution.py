"""The implicit GEMM convolutions of the Triton backend against float64."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from checking.cases import Maker
from checking.contracts import low_gate

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
# The interpreter multiplies matrices of bfloat16 wrongly.
DTYPES = (torch.float16,) if INTERPRETED else (torch.float16, torch.bfloat16)

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None or not (INTERPRETED or torch.cuda.is_available()),
    reason="needs Triton, and a GPU or TRITON_INTERPRET=1",
)

# N, C, D, H, W: patches that do not divide, several channel blocks, one pixel.
SHAPES = ((1, 64, 32, 9, 17), (2, 128, 24, 8, 16), (1, 64, 256, 3, 5), (1, 64, 16, 1, 1))


@pytest.fixture(params=DTYPES, ids=str)
def maker(request: pytest.FixtureRequest) -> Maker:
    return Maker(request.param, True, DEVICE)


def convolution(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x.double(), weight.double(), padding=1)


def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
    eps = torch.finfo(actual.dtype).eps
    accumulated = 64 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(actual.double(), expected, rtol=eps, atol=accumulated)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("keep", [False, True])
def test_low_gate_conv(maker: Maker, shape: tuple[int, ...], keep: bool) -> None:
    from efpn_kernels.triton import convolution as ours

    N, C, D, H, W = shape
    x, weight = maker.map(N, C, H, W), maker.map(D, C, 3, 3) / 24
    border, gate_weight, gate_bias = (
        maker.accumulated(N, 3, 3, D),
        maker.normal(D) / 4,
        maker.normal(1),
    )
    gate, kept = ours.low_gate_conv(x, weight, border, gate_weight, gate_bias, keep)
    exact = convolution(x, weight)
    check(gate, low_gate(exact, border.double(), gate_weight.double(), gate_bias.double())[0])
    if keep:
        check(kept, exact)
    else:
        assert kept.numel() == 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_refine_conv(maker: Maker, shape: tuple[int, ...]) -> None:
    from efpn_kernels.triton import convolution as ours

    N, C, D, H, W = shape
    p_low, weight, bias = maker.map(N, C, H, W), maker.map(D, C, 3, 3) / 24, maker.normal(D)
    context, mask = maker.accumulated(N, C), maker.gate(N, H, W)
    # The product is rounded to the dtype of the map, as it is where a pass of its own stores it.
    separated = ((p_low.float() + context[:, :, None, None]) * mask).to(maker.dtype)
    expected = torch.relu(convolution(separated, weight) + bias.double()[:, None, None])
    check(ours.refine_conv(p_low, context, mask, weight, bias), expected)
    check(ours.relu_conv(separated, weight, bias), expected)
