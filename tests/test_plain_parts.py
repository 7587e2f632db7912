"""A convolution of another configuration is called, where a fused kernel would take it for a plain one."""

from __future__ import annotations

import pytest
import torch
from conftest import Backend
from torch import nn

from efpn_kernels import CEM, FBSM, plain, reference

OTHER = {
    "stride": {"stride": 2, "padding": 1},
    "padding": {"padding": 0},
    "dilation": {"dilation": 2, "padding": 1},
    "padding_mode": {"padding": 1, "padding_mode": "circular"},
    "groups": {"groups": 2, "padding": 1},
    "bias": {"padding": 1, "bias": False},
}


@pytest.mark.parametrize("what", OTHER)
def test_the_last_convolution(backend: Backend, what: str) -> None:
    """Of refine the size may change: the result is the twin's."""
    torch.manual_seed(0)
    blocks = FBSM(7, 6).to(backend.device), reference.FBSM(7, 6).to(backend.device)
    new = nn.Conv2d(6, 6, 3, **OTHER[what]).to(backend.device)
    blocks[1].load_state_dict(blocks[0].state_dict())
    for block in blocks:
        block.refine_conv = new
    maps = (torch.randn(2, c, *size).to(backend.device) for c, size in ((6, (9, 10)), (7, (3, 4))))
    maps = tuple(maps)
    torch.testing.assert_close(blocks[0](*maps), blocks[1](*maps), rtol=1e-4, atol=1e-5)


def test_the_projection(backend: Backend) -> None:
    torch.manual_seed(0)
    block = CEM(4, 6).to(backend.device)
    twin = reference.CEM(4, 6).to(backend.device)
    block.project = twin.project = nn.Conv2d(4, 6, 1, groups=2).to(backend.device)
    maps = torch.randn(2, 6, 5, 4).to(backend.device), torch.randn(2, 4, 3, 2).to(backend.device)
    torch.testing.assert_close(block(*maps), twin(*maps), rtol=1e-4, atol=1e-5)


def test_a_weight_that_wraps_others(backend: Backend) -> None:
    """As a DTensor or a quantised one does: a kernel would read something else."""
    two_tensor = pytest.importorskip("torch.testing._internal.two_tensor")
    block = CEM(4, 6)
    weight = block.project.weight.detach()
    names = (("project", plain.PLAIN_1X1),)
    assert plain.plain_parameters(block, names) is not None
    block.project._parameters["weight"] = two_tensor.TwoTensor(weight, weight.clone())
    assert plain.plain_parameters(block, names) is None
