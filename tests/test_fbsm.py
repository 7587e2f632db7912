"""FBSM: values and gradients against the float64 oracle, Eq. 5-8."""

from __future__ import annotations

import pytest
import torch
from accuracy import assert_accurate
from cases import CASES, Case, block_problem, case
from conftest import Backend

from efpn_kernels import functional


@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_values_and_gradients(backend: Backend, case: Case) -> None:
    assert_accurate(lambda seed: block_problem("fbsm", case, backend.device, seed))


def test_gates_at_their_limits(backend: Backend) -> None:
    """Gates far in saturation leave nothing of the input or all of it."""
    problem = block_problem("fbsm", case("non_dividing", torch.float64), backend.device)
    tensors = {name: x.detach() for name, x in problem.tensors.items()}
    for fuse_bias, kept in ((-80.0, 0.0), (80.0, 1.0)):
        tensors["fuse_bias"] = torch.full_like(tensors["fuse_bias"], fuse_bias)
        out = functional.fbsm(*tensors.values())
        refine = (tensors["refine_weight"], tensors["refine_bias"])
        expected = torch.conv2d(kept * tensors["c_low"], *refine, padding=1).relu()
        torch.testing.assert_close(out, expected)
