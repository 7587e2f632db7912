"""Sums of more blocks than the second launch has threads, in the emulation."""

from __future__ import annotations

import platform

import pytest
import torch

import build_cuda
from checking.emulator import emulation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        build_cuda.find_nvcc() is None or platform.machine() != "x86_64",
        reason="the emulation needs CUDA's headers and an x86-64 processor",
    ),
]


def test_the_loss_of_many_blocks() -> None:
    """600 blocks of 4096 elements, 512 threads: every element has the error 2, so the loss 4 or, gated, less."""
    elements = 600 * 4096
    pred, target = torch.full((elements,), 2.0), torch.zeros(elements)
    k, delta = torch.tensor(10.0), torch.tensor(0.0)
    emulated = emulation()
    loss, *_ = emulated.kernel("dc_loss")(pred, target, None, k, delta, 0, True, 1.0, False)
    assert not emulated.problem()
    assert loss.item() == pytest.approx(4.0 * elements, rel=1e-4)
