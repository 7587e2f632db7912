"""The numerics rule: our error against float64 is at most 1.25 times eager's, plus one unit."""

from __future__ import annotations

import pytest
import torch
from accuracy import MANY, MORE_DRAWS, assert_accurate, assert_rule
from cases import BLOCK_OPERATORS, LAYOUTS, LossCase, Problem, block_problem, case, loss_problem
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

    def __init__(self, eager: float, ours: float, size: int = 4) -> None:
        self.off = eager, ours
        self.size = size

    def oracle(self) -> dict[str, Tensor]:
        return {"out": torch.ones(self.size, dtype=torch.float64)}

    def eager(self) -> dict[str, Tensor]:
        return {"out": torch.ones(self.size) + self.off[0] * torch.finfo(torch.float32).eps}

    def fused(self) -> dict[str, Tensor]:
        return {"out": torch.ones(self.size) + self.off[1] * torch.finfo(torch.float32).eps}


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


class Planted:
    """A problem that is solved once, by eager too in the place of ours, with one result changed."""

    def __init__(self, problem: Problem) -> None:
        self.exact, self.plain, self.changed = problem.oracle(), problem.eager(), {}

    def oracle(self) -> dict[str, Tensor]:
        return self.exact

    def eager(self) -> dict[str, Tensor]:
        return self.plain

    def fused(self) -> dict[str, Tensor]:
        return self.plain | self.changed


@pytest.fixture(scope="module")
def planted() -> dict[str, list[Planted]]:
    """Draws of a block and of a loss."""
    loss = LossCase((100_000,), reduction="sum")
    seeds = range(MORE_DRAWS)
    return {
        "block": [Planted(block_problem("efpn_bs", case("x8"), seed=seed)) for seed in seeds],
        "loss": [Planted(loss_problem(loss, seed=seed)) for seed in seeds],
    }


@pytest.mark.parametrize("which", ["block", "loss"])
def test_a_mistake_in_any_result_is_noticed(planted: dict[str, list[Planted]], which: str) -> None:
    """Of a ten-thousandth; also in a result of one element, such as the gradient of a gate's bias."""
    draws = planted[which]
    for draw in draws:
        draw.changed = {}
    assert_accurate(draws.__getitem__)
    assert any(exact.numel() == 1 for exact in draws[0].exact.values())
    for name in draws[0].exact:
        for draw in draws:
            draw.changed = {name: draw.plain[name] * (1 + 1e-4)}
        with pytest.raises(AssertionError, match=rf"^{name}: .* at most"):
            assert_accurate(draws.__getitem__)


def test_a_sum_in_the_wrong_order_is_noticed() -> None:
    """A loss whose terms are added up one behind the other in float32."""
    terms = LossCase((100_000,), reduction="none")

    def make(seed: int) -> Planted:
        problem = loss_problem(terms, seed=seed)
        draw = Planted(problem)
        each, exact = draw.plain["out"], draw.exact["out"]
        draw.exact, draw.plain = {"out": exact.sum()}, {"out": each.sum()}
        draw.changed = {"out": torch.tensor(each.numpy().cumsum()[-1])}
        return draw

    with pytest.raises(AssertionError, match=r"^out: .* at most"):
        assert_accurate(make)


@pytest.mark.parametrize(
    ("size", "ours", "right"),
    [
        (MANY, 24, True),
        (MANY, 30, False),
        (1, 150, True),
        (1, 170, False),
    ],
)
def test_what_a_few_draws_allow(size: int, ours: float, right: bool) -> None:
    """A quarter more than eager's 20 units of a result of many elements, and eight times that of one."""
    try:
        assert_accurate(lambda seed: Draw(20, ours, size))
    except AssertionError:
        assert not right
    else:
        assert right


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
