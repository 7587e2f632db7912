"""Floating-point operations as PyTorch's counter sees them: those of the plain twin."""

from __future__ import annotations

import pytest
import torch
from cases import BLOCK_OPERATORS, block_problem, case
from conftest import Backend
from torch.utils.flop_counter import FlopCounterMode

from efpn_kernels import EFPNBS, reference


@pytest.mark.parametrize("name", ["x2", "per_channel", "odd_channels"])
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_the_same_count(backend: Backend, operator: str, name: str) -> None:
    problem = block_problem(operator, case(name), backend.device)
    counts = []
    for function in (problem.functional, problem.reference):
        with FlopCounterMode(display=False) as forward:
            out = function(*problem.tensors.values())
        with FlopCounterMode(display=False) as backward:
            out.backward(problem.grad_out)
        counts.append((forward.get_total_flops(), backward.get_total_flops()))
    assert counts[0] == counts[1]
    assert min(counts[0]) > 0


def test_of_modules(backend: Backend) -> None:
    """The counter hooks every module; the parts are called then, and found by name."""
    inputs = torch.randn(1, 6, 9, 10), torch.randn(1, 7, 3, 4)
    inputs = [x.to(backend.device) for x in inputs]
    counts = []
    for kind in (EFPNBS, reference.EFPNBS):
        with FlopCounterMode(display=False) as counter:
            kind(7, 6).to(backend.device)(*inputs)
        by_module = {
            name.split(".", 1)[1]: dict(c)
            for name, c in counter.get_flop_counts().items()
            if "." in name
        }
        counts.append(by_module)
    assert counts[0] == counts[1]
    assert {"cem.project", "fbsm.low_conv"} <= set(counts[0])
