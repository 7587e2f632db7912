"""E-FPN-BS, the fused block: values and gradients against the float64 oracle, Fig. 3."""

from __future__ import annotations

import pytest
import torch
from accuracy import DRAWS, assert_accurate
from cases import CASES, Case, block_problem, case
from conftest import Backend

from efpn_kernels import functional


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(backend: Backend, case: Case) -> None:
    assert_accurate(
        lambda seed: block_problem("efpn_bs", case, backend.device, seed),
        draws=1 if case.slow else DRAWS,
    )


def test_is_cem_then_fbsm(backend: Backend) -> None:
    problem = block_problem("efpn_bs", case("non_dividing", torch.float64), backend.device)
    p_low, p_high, weight, bias, *fbsm_parameters = problem.tensors.values()
    c_low = functional.cem(p_low, p_high, weight, bias)
    out = functional.fbsm(c_low, p_high, *fbsm_parameters)
    torch.testing.assert_close(problem.fused()["out"], out)
