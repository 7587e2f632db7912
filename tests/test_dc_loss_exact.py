"""DCLoss against numbers of 60 digits: value and three derivatives, at random points and at the edges of every dtype."""

from __future__ import annotations

import functools
from itertools import product
from typing import NamedTuple

import mpmath
import pytest
import torch
from cases import DTYPES
from conftest import Backend
from torch import Tensor

from efpn_kernels import functional
from efpn_kernels.reference import FORMS

NAMES = ("loss", "d_pred", "d_k", "d_delta")


class Gate(NamedTuple):
    """One ``k`` and ``delta``, and the errors to look at."""

    k: float
    delta: float
    errors: tuple[float, ...]


def gates(small: bool) -> list[Gate]:
    """Around the transition, far from it on both sides, at random; from next to nothing to the largest number."""
    generator = torch.Generator().manual_seed(5)
    edges = (0.0, 1e-30, 1e-5, 1.0, 300.0, 7e4, 1e14, 1e17, 1.8e19, 1.9e19, 2e19, 1e25, 3e38)
    settings = [(10.0, 0.15), (100.0, 0.15), (1e4, 0.5), (1e-3, 3.0), (1e-19, 0.15), (40.0, 0.0)]
    result = []
    for k, delta in settings[:3] if small else settings:
        random = torch.rand(4 if small else 20, generator=generator, dtype=torch.float64)
        near = (delta + (random * 2 - 1) * 30 / k).abs().tolist()
        wide = (10 ** (random * 8 - 6)).tolist()
        result.append(Gate(k, delta, (*edges, *near, *wide)))
    return result


@functools.cache
def exact(form: str, k: float, delta: float, e: float) -> tuple[tuple, tuple]:
    """Loss and derivatives for the error ``e``; then how much each moves where ``x``, ``a``, ``b`` are rounded once."""
    with mpmath.workdps(60):
        k, delta, e = (mpmath.mpf(v) for v in (k, delta, e))
        s = 1 if form == "equation" else -1
        a, b = (1 / (1 + mpmath.exp(-sign * s * k * (e - delta))) for sign in (1, -1))
        slope = s * a * b * e * (e - 1)
        values = (
            a * e**2 + b * e,
            0 if e == 0 else 2 * a * e + b + k * slope,
            slope * (e - delta),
            -k * slope,
        )
        # Of x, a multiple of its rounding; what it makes of a, of b and of a b.
        x = k * (e + abs(delta))
        of_a, of_b, of_slope = 1 + x * b, 1 + x * a, 1 + x
        bound = a * b * e * (e + 1)
        moves = (
            a * e**2 * of_a + b * e * of_b,
            2 * a * e * of_a + b * of_b + k * bound * of_slope,
            bound * (e + abs(delta)) * of_slope,
            k * bound * of_slope,
        )
        # A gate that is subnormal has an absolute error.
        lost = (e * (e + 1), (k * e + 1) * (e + 1), e * (e + 1) * (e + abs(delta)), k * e * (e + 1))
        return values, tuple(zip(moves, lost, strict=True))


def ours(pred: Tensor, k: Tensor, delta: Tensor, form: str) -> list[Tensor]:
    loss = functional.dc_loss(pred, torch.zeros_like(pred), k, delta, form=form, reduction="sum")
    return [loss.detach(), *torch.autograd.grad(loss, (pred, k, delta))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_values_and_derivatives(backend: Backend, dtype: torch.dtype, form: str) -> None:
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    wrong = []
    for k, delta, errors in gates(backend.interpreted):
        of_k, of_delta = (
            torch.tensor(v, dtype=acc, device=backend.device, requires_grad=True)
            for v in (k, delta)
        )
        given = torch.tensor(errors, dtype=torch.float64).to(dtype)
        for i, e in enumerate(given[given.isfinite()]):
            sign = -1 if i % 2 else 1
            pred = (sign * e).reshape(1).to(backend.device).requires_grad_()
            values, slacks = exact(form, of_k.item(), of_delta.item(), e.item())
            results = ours(pred, of_k, of_delta, form)
            for name, got, want, (move, lost) in zip(NAMES, results, values, slacks, strict=True):
                want = sign * want if name == "d_pred" else want
                info, largest = torch.finfo(acc), torch.finfo(got.dtype).max
                slack = 6 * info.eps * move + 8 * info.smallest_normal * info.eps * (1 + lost)
                slack += torch.finfo(got.dtype).eps * abs(want)
                slack += torch.finfo(got.dtype).smallest_normal * torch.finfo(got.dtype).eps
                off = got.item() - mpmath.mpf(want)
                overflows = abs(want) + slack >= largest and abs(got.item()) >= largest * 0.999
                if not overflows and not abs(off) <= slack:
                    wrong.append(f"{name} at e={e:g}, k={k:g}: {got.item():g}, exact {want}")
    assert not wrong, f"{len(wrong)} values:\n" + "\n".join(wrong[:10])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("how", ["default", "float", "tensor", "compiled", "reference"])
def test_the_mean_of_halves_is_no_sum_of_halves(
    backend: Backend, dtype: torch.dtype, how: str
) -> None:
    """100 000 losses of 4: 4 in the mean, 4e5 in the sum; each gradient 4e-5 of a unit."""
    pred = torch.full((100_000,), 2.0, dtype=dtype, device=backend.device, requires_grad=True)
    k, delta = (torch.tensor(v, device=backend.device) for v in (10.0, 0.15))
    factor = {"float": 1e5, "tensor": torch.tensor(1e5, device=backend.device)}.get(how)
    function = functional.dc_loss
    if how == "compiled":
        function = torch.compile(function, backend="aot_eager", fullgraph=True)
    if how == "reference":
        function = functools.partial(_reference, factor=1e5)
    loss = function(pred, torch.zeros_like(pred), k, delta, avg_factor=factor)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss.item(), 4.0, rtol=1e-2, atol=0)
    (2.0 * loss).backward()
    torch.testing.assert_close(
        pred.grad, torch.full_like(pred, 8e-5), rtol=2e-2, atol=torch.finfo(dtype).tiny / 100
    )


def _reference(*arguments: Tensor, factor: float, avg_factor: None) -> Tensor:
    from efpn_kernels import reference

    return reference.dc_loss(*arguments, avg_factor=torch.tensor(factor))


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_tensor_of_a_loss_weight_is_differentiated(
    backend: Backend, reduction: str, shape: tuple[int, ...]
) -> None:
    pred = torch.randn(20, device=backend.device, requires_grad=True)
    k, delta = (torch.tensor(v, device=backend.device) for v in (10.0, 0.15))
    factor = torch.full(shape, 0.5, device=backend.device, requires_grad=True)
    arguments = (pred, torch.zeros_like(pred), k, delta)
    plain = functional.dc_loss(*arguments, reduction=reduction)
    loss = functional.dc_loss(*arguments, reduction=reduction, loss_weight=factor)
    torch.testing.assert_close(loss, 0.5 * plain)
    loss.sum().backward()
    torch.testing.assert_close(factor.grad, plain.detach().sum().reshape(shape))


@pytest.mark.parametrize(
    ("pred", "target", "weight"), [p for p in product(DTYPES, repeat=3) if len(set(p)) == 2]
)
def test_dtypes_promote_as_in_a_loss_of_torch(
    backend: Backend, pred: torch.dtype, target: torch.dtype, weight: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y, w = (torch.rand(30, generator=generator).to(backend.device) for _ in range(3))
    x, y, w = x.to(pred).requires_grad_(), y.to(target), w.to(weight)
    k, delta = (torch.tensor(v, device=backend.device) for v in (10.0, 0.15))
    loss = functional.dc_loss(x, y, k, delta, w)
    wanted = (torch.nn.functional.smooth_l1_loss(x, y, reduction="none") * w).dtype
    assert loss.dtype == wanted
    wide = functional.dc_loss(*(t.to(wanted) for t in (x, y)), k, delta, w.to(wanted))
    assert loss.equal(wide)
    assert torch.autograd.grad(loss, x)[0].dtype == pred
