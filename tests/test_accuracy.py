"""The numerics rule: our error against float64 is at most 1.25 times eager's, plus one unit."""

from __future__ import annotations

import pytest
import torch
from accuracy import assert_rule
from cases import BLOCK_OPERATORS, LAYOUTS, LossCase, block_problem, case, loss_problem
from conftest import Backend
from torch import Tensor

from efpn_kernels.reference import FORMS

SHAPES = ("per_channel", "odd_channels", "downsampled", "non_dividing", "x8")
SEEDS = range(100, 112)
NARROW = (torch.float32, torch.bfloat16, torch.float16)
every_dtype = pytest.mark.parametrize(
    "dtype", NARROW, ids=lambda dtype: str(dtype).removeprefix("torch.")
)


class Draw:
    """A problem whose results are off by so many units, eager's and ours."""

    def __init__(self, eager: float, ours: float) -> None:
        self.off = eager, ours

    def oracle(self) -> dict[str, Tensor]:
        return {"out": torch.ones(4, dtype=torch.float64)}

    def eager(self) -> dict[str, Tensor]:
        return {"out": torch.ones(4) + self.off[0] * torch.finfo(torch.float32).eps}

    def fused(self) -> dict[str, Tensor]:
        return {"out": torch.ones(4) + self.off[1] * torch.finfo(torch.float32).eps}


@pytest.mark.parametrize("ours", [(0, 40), (0, 0, 0, 2000), (0, 0, 0, 0, 0, 60), (2, 2)], ids=str)
def test_lucky_draws_do_not_pay_for_a_mistake(ours: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="of what is allowed"):
        assert_rule([Draw(0, error) for error in ours])


def test_nor_do_those_that_are_better_than_eagers() -> None:
    with pytest.raises(AssertionError, match="of what is allowed"):
        assert_rule([Draw(8, 0), Draw(8, 9 * 11)])


@pytest.mark.parametrize("ours", [(0, 0), (1, 1), (0, 1), (0, 2, 0)], ids=str)
def test_what_the_rule_allows(ours: tuple[int, ...]) -> None:
    assert_rule([Draw(0, error) for error in ours])
    assert_rule([Draw(8, 11 * error) for error in ours])


@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_blocks(backend: Backend, operator: str, layout: str, dtype: torch.dtype) -> None:
    names, seeds = (SHAPES[:2], SEEDS[:2]) if backend.interpreted else (SHAPES, SEEDS)
    if dtype == torch.float16 and backend.device == "cpu":
        names = SHAPES[:3]  # PyTorch's own convolutions are slow there
    assert_rule(
        [
            block_problem(operator, case(name, dtype, layout), backend.device, seed)
            for name in names
            for seed in seeds
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_over_a_large_level(backend: Backend, layout: str) -> None:
    """CEM's gradients are sums over every pixel; a detector's level has forty thousand."""
    if backend.interpreted:
        pytest.skip("minutes in an interpreter")
    large = case("ai_tod", layout=layout)
    assert_rule([block_problem("cem", large, backend.device, seed) for seed in range(3)])


@every_dtype
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_loss(backend: Backend, reduction: str, form: str, dtype: torch.dtype) -> None:
    losses = [
        LossCase(shape, dtype, form, reduction, weight)
        for shape in ((33, 4), (1000,))
        for weight in ("none", "full")
    ]
    assert_rule([loss_problem(c, backend.device, seed) for c in losses for seed in SEEDS])
