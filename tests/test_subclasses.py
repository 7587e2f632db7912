"""Subclasses of the parts of a block are called, where a fused kernel would pass them by."""

from __future__ import annotations

import pytest
import torch
from conftest import Backend
from torch import Tensor, nn

from efpn_kernels import CEM, EFPNBS, FBSM, reference


def twins(device: str) -> tuple[nn.Module, nn.Module]:
    """A fused block and its reference twin with the same weights."""
    torch.manual_seed(0)
    block, twin = EFPNBS(7, 6), reference.EFPNBS(7, 6)
    twin.load_state_dict(block.state_dict())
    return block.to(device), twin.to(device)


def maps(device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 6, 9, 10), (2, 7, 3, 4))
    return tuple(torch.randn(shape, generator=generator).to(device) for shape in shapes)


@pytest.mark.parametrize("part", ["cem", "fbsm"])
def test_a_subclass_of_a_fused_part_is_called(backend: Backend, part: str) -> None:
    """Its forward is somebody's own, though it is one of ours: in a block, and in a block's subclass."""
    kind = {"cem": CEM, "fbsm": FBSM}[part]
    calls = []

    class Own(kind):
        def forward(self, low: Tensor, p_high: Tensor) -> Tensor:
            calls.append(part)
            return super().forward(low, p_high) + 1

    class Block(EFPNBS):
        pass

    setattr(Block, part.upper(), Own)
    inputs = maps(backend.device)
    block, twin = twins(backend.device)
    before = block(*inputs)
    own = Own(7, 6).to(backend.device)
    own.load_state_dict(getattr(block, part).state_dict())
    setattr(block, part, own)
    inherited = Block(7, 6).to(backend.device)
    inherited.load_state_dict(block.state_dict())
    for count, one in enumerate((block, inherited), 1):
        out = one(*inputs)
        assert len(calls) == count
        assert not torch.allclose(out, before)
        c_low = twin.cem(*inputs) + (part == "cem")
        expected = twin.fbsm(c_low, inputs[1]) + (part == "fbsm")
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", ["cem.project", "fbsm.low_conv", "fbsm.refine_conv"])
def test_a_subclass_of_a_convolution_is_called(backend: Backend, part: str) -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    block, twin = twins(backend.device)
    for module in (block, twin):
        module.get_submodule(part).__class__ = Doubled
    inputs = maps(backend.device)
    torch.testing.assert_close(block(*inputs), twin(*inputs), rtol=1e-4, atol=1e-4)
