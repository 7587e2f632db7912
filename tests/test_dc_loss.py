"""DCLoss: values and gradients against the float64 oracle, Eq. 9-10."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from accuracy import assert_accurate
from cases import LOSS_CASES, LossCase, loss_problem
from conftest import Backend
from torch import Tensor

from efpn_kernels import functional
from efpn_kernels.reference import FORMS, REDUCTIONS


@pytest.mark.parametrize("case", LOSS_CASES, ids=str)
def test_values_and_gradients(backend: Backend, case: LossCase) -> None:
    assert_accurate(lambda seed: loss_problem(case, backend.device, seed))


def parameters(device: str) -> tuple[Tensor, Tensor]:
    return torch.tensor(10.0, device=device), torch.tensor(0.15, device=device)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradient_of_target_is_minus_that_of_pred(
    backend: Backend, form: str, reduction: str
) -> None:
    pred, target = torch.randn(2, 33, device=backend.device).requires_grad_().unbind()
    loss = functional.dc_loss(
        pred, target, *parameters(backend.device), form=form, reduction=reduction
    )
    grad_pred, grad_target = torch.autograd.grad(loss.sum(), (pred, target))
    assert grad_target.equal(-grad_pred)


def test_no_gradient_where_the_error_is_zero(backend: Backend) -> None:
    pred = torch.randn(50, device=backend.device).requires_grad_()
    functional.dc_loss(pred, pred.detach().clone(), *parameters(backend.device)).backward()
    assert pred.grad.equal(torch.zeros_like(pred))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_repeated_backward(backend: Backend, reduction: str) -> None:
    """A retained graph gives the same gradient again, scaled as asked, and no aliased tensor."""
    pred = torch.randn(100, device=backend.device).requires_grad_()
    k, delta = parameters(backend.device)
    k.requires_grad_()
    target = torch.zeros_like(pred)
    loss = functional.dc_loss(pred, target, k, delta, reduction=reduction).sum()
    first = torch.autograd.grad(loss, (pred, k), retain_graph=True)
    copies = [g.clone() for g in first]
    for g in first:
        g.zero_()
    second = torch.autograd.grad(loss, (pred, k), retain_graph=True)
    third = torch.autograd.grad(3 * loss, (pred, k))
    for expected, g, g3 in zip(copies, second, third, strict=True):
        torch.testing.assert_close(g, expected)
        torch.testing.assert_close(g3, 3 * expected)


def test_gradients_accumulate(backend: Backend) -> None:
    pred = torch.randn(100, device=backend.device).requires_grad_()
    target = torch.zeros_like(pred)
    for _ in range(3):
        functional.dc_loss(pred, target, *parameters(backend.device)).backward()
    once = torch.autograd.grad(functional.dc_loss(pred, target, *parameters(backend.device)), pred)[
        0
    ]
    torch.testing.assert_close(pred.grad, 3 * once)


def test_reduction_is_more_accurate_than_adding_up_in_order(backend: Backend) -> None:
    """A million equal terms: a running float32 sum would drift by far more than one unit."""
    pred = torch.full((1_000_001,), 0.1, device=backend.device)
    arguments = (pred, torch.zeros_like(pred), *parameters(backend.device))
    total = functional.dc_loss(*arguments, reduction="sum")
    exact = functional.dc_loss(*(x.double() for x in arguments), reduction="sum")
    assert abs(total.double() - exact) <= 4 * torch.finfo(torch.float32).eps * exact


@pytest.mark.parametrize("avg_factor", [8.0, 8], ids=["float", "int"])
def test_avg_factor_divides_the_sum(backend: Backend, avg_factor: float) -> None:
    pred = torch.randn(100, device=backend.device)
    arguments = (pred, torch.zeros_like(pred), *parameters(backend.device))
    loss = functional.dc_loss(*arguments, avg_factor=avg_factor)
    torch.testing.assert_close(loss, functional.dc_loss(*arguments, reduction="sum") / 8)


def test_avg_factor_may_be_a_tensor(backend: Backend) -> None:
    pred = torch.randn(100, device=backend.device)
    arguments = (pred, torch.zeros_like(pred), *parameters(backend.device))
    loss = functional.dc_loss(*arguments, avg_factor=torch.tensor(8.0, device=backend.device))
    torch.testing.assert_close(loss, functional.dc_loss(*arguments, avg_factor=8.0))


def test_in_place_change_of_an_argument_before_backward_is_noticed(backend: Backend) -> None:
    """Either the gradient of the values that the loss saw, or autograd's own complaint."""
    pred = torch.randn(100, device=backend.device).requires_grad_()
    target = torch.zeros_like(pred)
    expected = torch.autograd.grad(
        functional.dc_loss(pred, target, *parameters(backend.device)), pred
    )[0]
    loss = functional.dc_loss(pred, target, *parameters(backend.device))
    target.add_(1.0)
    try:
        got = torch.autograd.grad(loss, pred)[0]
    except RuntimeError as error:
        assert "inplace" in str(error)
    else:
        assert got.equal(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    "factor",
    [
        0,
        0.0,
        -2.5,
        7,
        math.inf,
        True,
        numpy.float32(3),
        numpy.int64(3),
        torch.tensor(4.0, dtype=torch.float64),
        torch.tensor(4),
        torch.tensor([4.0]),
        torch.tensor([[0.5]], dtype=torch.bfloat16),
        torch.tensor(0.0),
    ],
    ids=str,
)
def test_average_factors(backend: Backend, dtype: torch.dtype, factor: float | Tensor) -> None:
    """A scalar of pred's dtype, and what the reference gives: also for what torch divides by oddly."""
    problem = loss_problem(LossCase((33, 4), dtype), backend.device)
    if isinstance(factor, Tensor) and factor.dim():
        factor = factor.to(backend.device)
    problem.options["avg_factor"] = factor
    ours, eager = problem.fused(), problem.eager()
    assert ours["out"].shape == ()
    assert ours["out"].dtype == dtype
    tolerance = {"rtol": 2e-2, "atol": 1e-3} if dtype == torch.bfloat16 else {}
    names = ["out"] if factor == 0 else list(eager)  # infinite gradients differ in their NaN
    for name in names:
        torch.testing.assert_close(ours[name], eager[name], **tolerance)
