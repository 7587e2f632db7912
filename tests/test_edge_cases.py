"""Nothing at all, single pixels, NaN, infinities, and memory that nobody wrote."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from cases import (
    BLOCK_OPERATORS,
    LAYOUTS,
    Case,
    LossCase,
    Problem,
    Shape,
    block_problem,
    case,
    loss_problem,
)
from conftest import Backend
from torch import Tensor

from efpn_kernels import functional
from efpn_kernels.reference import REDUCTIONS

of_every_layout = pytest.mark.parametrize("layout", LAYOUTS)
of_every_block = pytest.mark.parametrize("operator", BLOCK_OPERATORS)
low_name = {"cem": "p_low", "fbsm": "c_low", "efpn_bs": "p_low"}


@of_every_layout
@of_every_block
@pytest.mark.parametrize("per_channel", [False, True], ids=["one_gate", "per_channel"])
def test_no_image(backend: Backend, operator: str, layout: str, per_channel: bool) -> None:
    """N = 0: an empty result, empty gradients of the maps and zeros for the parameters."""
    shape = Shape(0, 4, 5, 6, (7, 8), (2, 3), per_channel)
    problem = block_problem(operator, Case("empty", shape, layout=layout), backend.device)
    for name, result in problem.fused().items():
        source = problem.tensors.get(name.removeprefix("grad_"))
        assert result.shape == ((0, 4, 7, 8) if source is None else source.shape)
        assert result.equal(torch.zeros_like(result)), name


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_no_pixel_in_the_low_map(backend: Backend, size: tuple[int, int]) -> None:
    problem = block_problem("cem", Case("empty", Shape(2, 4, 5, 6, size, (2, 3))), backend.device)
    results = problem.fused()
    assert results["out"].shape == (2, 4, *size)
    for name in ("grad_p_high", "grad_weight", "grad_bias"):
        assert results[name].equal(torch.zeros_like(results[name]))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0, 2)])
def test_loss_of_nothing(backend: Backend, shape: tuple[int, ...], reduction: str) -> None:
    """An image without positives: the loss is zero and so is every gradient."""
    results = loss_problem(LossCase(shape, reduction=reduction), backend.device).fused()
    assert results["out"].shape == (shape if reduction == "none" else ())
    assert results["grad_pred"].shape == shape
    for name in ("out", "grad_k", "grad_delta"):
        assert results[name].equal(torch.zeros_like(results[name])), name


def assert_same_special_values(ours: dict[str, Tensor], eager: dict[str, Tensor]) -> None:
    for name, expected in eager.items():
        got = ours[name]
        assert got.isnan().equal(expected.isnan()), f"{name}: NaN elsewhere than in eager"
        assert got.isinf().equal(expected.isinf()), f"{name}: inf elsewhere than in eager"
        finite = expected.isfinite()
        torch.testing.assert_close(got[finite], expected[finite], rtol=1e-4, atol=1e-5)


def with_value(problem: Problem, name: str, value: float) -> Problem:
    """The same problem with one element of an argument replaced."""
    x = problem.tensors[name].detach().clone()
    x[(0,) * (x.dim() - 2) + tuple(s // 2 for s in x.shape[-2:])] = value
    problem.tensors[name] = x.requires_grad_(problem.tensors[name].requires_grad)
    return problem


@of_every_layout
@of_every_block
@pytest.mark.parametrize("level", ["low", "high"])
def test_nan_propagates(backend: Backend, operator: str, layout: str, level: str) -> None:
    """The result is NaN exactly where eager's is; a NaN wins every maximum."""
    name = "p_high" if level == "high" else low_name[operator]
    problem = block_problem(operator, case("non_dividing", layout=layout), backend.device)
    problem = with_value(problem, name, math.nan)
    assert_same_special_values({"out": problem.fused()["out"]}, {"out": problem.eager()["out"]})


@of_every_block
@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_in_the_low_map_propagates(backend: Backend, operator: str, value: float) -> None:
    problem = block_problem(operator, case("non_dividing"), backend.device)
    problem = with_value(problem, low_name[operator], value)
    assert_same_special_values({"out": problem.fused()["out"]}, {"out": problem.eager()["out"]})


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_in_the_high_map_of_cem_propagates(backend: Backend, value: float) -> None:
    problem = with_value(block_problem("cem", case("x8"), backend.device), "p_high", value)
    assert_same_special_values({"out": problem.fused()["out"]}, {"out": problem.eager()["out"]})


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_in_the_high_map_stays_local(backend: Backend, value: float) -> None:
    """Where eager is finite and has no part in it, nothing changes.

    Inside of its reach, which of inf, NaN and a saturated gate comes out depends on the order of the
    sums, since infinities of both signs meet there; eager itself has another one in float64.
    """
    shape = Shape(1, 4, 4, 4, (24, 24), (6, 6))
    problem = block_problem("fbsm", Case("infinity", shape), backend.device)
    clean = problem.fused()["out"]
    got = with_value(problem, "p_high", value).fused()["out"]
    assert not got.equal(clean)
    far = problem.eager()["out"]
    reach = torch.ones(24, 24, dtype=torch.bool, device=backend.device)
    # The pixel (3, 3) touches rows 8 to 19 of the upsampled map; three convolutions see 3 more.
    reach[5:23, 5:23] = False
    torch.testing.assert_close(got[..., reach], clean[..., reach])
    torch.testing.assert_close(got[..., reach], far[..., reach], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["pred", "target"])
def test_loss_of_special_values(backend: Backend, name: str, value: float, reduction: str) -> None:
    problem = loss_problem(LossCase((33, 4), reduction=reduction), backend.device)
    problem = with_value(problem, name, value)
    assert_same_special_values({"out": problem.fused()["out"]}, {"out": problem.eager()["out"]})


def special_problem(operator: str, name: str, device: str, layout: str) -> Problem:
    if operator == "dc_loss":
        return loss_problem(LossCase((33, 4), reduction=name, weight="full"), device)
    return block_problem(operator, case(name, layout=layout), device)


def with_first(problem: Problem, name: str, value: float) -> Problem:
    """The same problem with the first element of an argument replaced."""
    x = problem.tensors[name].detach().clone()
    x[(0,) * x.dim()] = value
    problem.tensors[name] = x.requires_grad_(problem.tensors[name].requires_grad)
    return problem


EVERY_ARGUMENT = [
    (operator, name, argument)
    for operator, names in (
        *((operator, ("non_dividing", "per_channel")) for operator in BLOCK_OPERATORS),
        ("dc_loss", ("mean", "none")),
    )
    for name in names
    for argument in special_problem(operator, name, "cpu", "contiguous").tensors
]


@of_every_layout
@pytest.mark.parametrize(("operator", "name", "argument"), EVERY_ARGUMENT)
def test_nan_in_any_argument(
    backend: Backend, operator: str, name: str, argument: str, layout: str
) -> None:
    """Every NaN of eager's result and gradients is there: no ReLU and no gate swallows one.

    Of weights there may be more of them in a tensor that has some: the convolutions work on sums of weights,
    and eager's leave out a tap that a border pixel does not see.
    """
    problem = special_problem(operator, name, backend.device, layout)
    problem = with_first(problem, argument, math.nan)
    ours, eager = problem.fused(), problem.eager()
    for result, expected in eager.items():
        got = ours[result].isnan()
        assert not (expected.isnan() & ~got).any(), f"{result}: NaN is lost"
        assert got.any() == expected.isnan().any(), f"{result}: NaN where eager has none"
        if operator in ("cem", "dc_loss"):
            assert got.equal(expected.isnan()), result


@of_every_layout
@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize(("operator", "name", "argument"), EVERY_ARGUMENT)
def test_infinity_in_any_argument(
    backend: Backend, operator: str, name: str, argument: str, layout: str, value: float
) -> None:
    """What is not finite in eager is not finite here, for whoever looks for it."""
    problem = special_problem(operator, name, backend.device, layout)
    problem = with_first(problem, argument, value)
    ours, eager = problem.fused(), problem.eager()
    for result, expected in eager.items():
        assert expected.isfinite().all() or not ours[result].isfinite().all(), result


def test_nan_gradient_is_not_swallowed(backend: Backend) -> None:
    problem = block_problem("efpn_bs", case("non_dividing"), backend.device)
    problem.grad_out = torch.full_like(problem.grad_out, math.nan)
    for name, result in problem.fused().items():
        if name != "out":
            assert result.isnan().any(), name


@of_every_block
@of_every_layout
@pytest.mark.parametrize("name", ["x8", "odd_channels", "per_channel", "one_pixel_low"])
def test_no_output_depends_on_uninitialised_memory(
    backend: Backend, operator: str, layout: str, name: str
) -> None:
    """The same bits with memory full of NaN and with memory as it comes."""
    problem = block_problem(operator, case(name, layout=layout), backend.device)
    poisoned = problem.fused()
    torch.utils.deterministic.fill_uninitialized_memory = False
    for result, expected in zip(problem.fused().values(), poisoned.values(), strict=True):
        assert result.equal(expected)


def test_poison_works(backend: Backend) -> None:
    assert torch.empty(9, device=backend.device).isnan().all()


def test_large_errors_saturate_without_overflow(backend: Backend) -> None:
    pred = torch.tensor([1e4, -1e4, 1e10, 0.0], device=backend.device, requires_grad=True)
    k, delta = (torch.tensor(v, device=backend.device, requires_grad=True) for v in (10.0, 0.15))
    target = torch.zeros_like(pred)
    loss = functional.dc_loss(pred, target, k, delta, reduction="none", form="text")
    torch.testing.assert_close(loss.detach(), pred.detach().abs())
    loss.sum().backward()
    torch.testing.assert_close(pred.grad, pred.detach().sign())
    assert k.grad.isfinite() and delta.grad.isfinite()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_an_inference_tensor_in_training_is_refused_by_name(
    backend: Backend, operator: str, which: int
) -> None:
    problem = block_problem(operator, case("x2"), backend.device)
    tensors = list(problem.tensors.values())
    with torch.inference_mode():
        tensors[which] = tensors[which].detach().clone()
    if operator == "cem" and which == 0:  # not needed in backward
        problem.functional(*tensors).sum().backward()
        return
    name = list(problem.tensors)[which]
    with pytest.raises(RuntimeError, match=f"{name}: .*inference_mode.*no_grad"):
        problem.functional(*tensors)
    with torch.no_grad():
        problem.functional(*tensors)


def test_reloading_the_package_keeps_what_is_registered() -> None:
    code = """
import importlib, sys, torch
import efpn_kernels
for name in [n for n in sys.modules if n.startswith("efpn_kernels")]:
    importlib.reload(sys.modules[name])
x = torch.randn(1, 4, 5, 6)
efpn_kernels.EFPNBS(4, 4)(x, x).sum().backward()
assert efpn_kernels.explain(x).backend == "cpu"
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
