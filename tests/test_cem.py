"""CEM: values and gradients against the float64 oracle, Eq. 1-4."""

from __future__ import annotations

import pytest
import torch
from accuracy import assert_accurate
from cases import CASES, Case, block_problem, case
from conftest import Backend

from efpn_kernels import functional


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(backend: Backend, case: Case) -> None:
    assert_accurate(lambda seed: block_problem("cem", case, backend.device, seed))


def test_context_is_a_constant_per_channel(backend: Backend) -> None:
    problem = block_problem("cem", case("non_dividing", torch.float64), backend.device)
    context = problem.fused()["out"] - problem.tensors["p_low"]
    torch.testing.assert_close(context, context[:, :, :1, :1].expand_as(context))
    assert (context >= -1e-12).all()


def test_gradient_goes_to_the_first_maximum(backend: Backend) -> None:
    """In row-major order, whatever the memory format."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        p_high = torch.zeros(1, 2, 3, 4, device=backend.device)
        p_high[0, 0, 1, 2] = p_high[0, 0, 2, 0] = 5.0
        p_high = p_high.contiguous(memory_format=memory_format).requires_grad_()
        weight = torch.ones(1, 2, 1, 1, device=backend.device)
        p_low, bias = torch.zeros(1, 1, 2, 2, device=backend.device), weight.new_ones(1)
        functional.cem(p_low, p_high, weight, bias).sum().backward()
        expected = torch.zeros_like(p_high)
        expected[0, 0, 1, 2] = expected[0, 1, 0, 0] = 4.0
        assert p_high.grad.equal(expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 64, 420, 344), (3, 30, 331, 301)], ids=str)
def test_maps_larger_than_a_processors_cache(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """Which are written past it where their vectors are whole and aligned."""
    p_low = torch.randn(shape, dtype=dtype).contiguous(memory_format=memory_format)
    context = torch.rand(shape[:2], dtype=torch.promote_types(dtype, torch.float32))
    out = torch.ops.efpn.context_add(p_low, context)
    assert out.equal((p_low + context[:, :, None, None]).to(dtype))
    assert out.stride() == p_low.stride()
