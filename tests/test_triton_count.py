"""What the roofline on paper counts, where it can be said beforehand."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs Triton and TRITON_INTERPRET=1",
)


def test_a_pass_over_a_map() -> None:
    from checking.counting import counting
    from efpn_kernels.triton.cem import context_add

    # 40 programs run whole, 640 by samples.
    for N in (1, 16):
        p_low, context = torch.empty(N, 32, 64, 80), torch.empty(N, 32)
        with counting() as launches:
            context_add(p_low, context)
        (launch,) = launches
        assert launch.programs == 40 * N
        assert launch.operations == p_low.numel()
        assert launch.bytes == 2 * p_low.nbytes + context.nbytes
        assert launch.requested == 2 * p_low.nbytes + 40 * N * 4 * 4


def test_a_convolution() -> None:
    from checking.counting import counting
    from efpn_kernels.triton.convolution import relu_conv

    x = torch.empty(1, 64, 16, 32, dtype=torch.bfloat16, memory_format=torch.channels_last)
    weight = torch.empty(32, 64, 3, 3, dtype=torch.bfloat16)
    with counting() as launches:
        out = relu_conv(x, weight, weight.new_empty(32))
    (launch,) = launches
    assert launch.dot_operations == 2 * 9 * 64 * out.numel()
    assert launch.bytes == x.nbytes + weight.nbytes + 64 + out.nbytes


def test_an_address_beyond_its_tensor_is_an_error() -> None:
    import triton
    import triton.language as tl
    from triton.runtime.errors import InterpreterError

    from checking.counting import counting

    @triton.jit
    def beyond_kernel(x_ptr):
        tl.store(x_ptr + tl.arange(0, 8), 0.0)

    with counting(), pytest.raises((IndexError, InterpreterError), match="in no tensor"):
        beyond_kernel[(1,)](torch.empty(7))
