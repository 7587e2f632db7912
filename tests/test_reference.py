"""The oracle itself: the two identities behind the kernels, and the numbers of DCLoss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from cases import SHAPES, Shape, block_problem, case
from torch import Tensor

from efpn_kernels import reference

K, DELTA = 10.0, 0.15
FAST_SHAPES = [name for name, shape in SHAPES.items() if not shape.slow]


def bilinear_matrix(size: int, low_size: int) -> Tensor:
    """``R [size, low_size]`` of one axis, ``align_corners=False``."""
    position = ((torch.arange(size).double() + 0.5) * low_size / size - 0.5).clamp(min=0)
    first = position.long().clamp(max=low_size - 1)
    second = (first + 1).clamp(max=low_size - 1)
    weight = (position - first)[:, None]
    one_hot = torch.eye(low_size, dtype=torch.float64)
    return (1 - weight) * one_hot[first] + weight * one_hot[second]


def shifted(matrix: Tensor, tap: int) -> Tensor:
    """Row ``y`` of the result is row ``y + tap - 1``, zero outside of the image."""
    return F.pad(matrix, (0, 0, 1, 1))[tap : tap + len(matrix)]


@pytest.mark.parametrize("name", FAST_SHAPES)
def test_the_upsample_commutes_with_the_channel_mixing(name: str) -> None:
    problem = block_problem("fbsm", case(name, torch.float64))
    p_high, weight, bias = (
        problem.tensors[argument].detach()
        for argument in ("p_high", "high_conv_weight", "high_conv_bias")
    )
    size = SHAPES[name].low_size
    upsampled = F.interpolate(p_high, size=size, mode="bilinear", align_corners=False)
    expected = F.conv2d(upsampled, weight, bias, padding=1)

    taps = torch.einsum("dckl,ncij->nklijd", weight, p_high)
    rows, columns = (bilinear_matrix(*pair) for pair in zip(size, p_high.shape[2:], strict=True))
    commuted = bias[:, None, None] + sum(
        torch.einsum("yi,xj,nijd->ndyx", shifted(rows, ky), shifted(columns, kx), taps[:, ky, kx])
        for ky in range(3)
        for kx in range(3)
    )
    torch.testing.assert_close(commuted, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("height", [1, 2, 3, 6])
@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_a_context_is_a_constant_per_border_class(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(height * 10 + width)
    p_low, context, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 4, height, width), (2, 4), (5, 4, 3, 3))
    )
    expected = F.conv2d(p_low + context[:, :, None, None], weight, padding=1)

    def inside(size: int) -> Tensor:
        """``[size, 3]``: which taps of a pixel fall inside of the image."""
        position = torch.arange(size)[:, None] + torch.arange(3) - 1
        return ((position >= 0) & (position < size)).double()

    border = torch.einsum("nc,dckl,yk,xl->ndyx", context, weight, inside(height), inside(width))
    torch.testing.assert_close(F.conv2d(p_low, weight, padding=1) + border, expected)
    classes = {tuple(row) for row in inside(height).tolist()}
    assert len(classes) == min(height, 3)


def loss_and_slope(error: Tensor, form: str) -> tuple[Tensor, Tensor]:
    error = error.detach().requires_grad_()
    k, delta = (torch.tensor(value, dtype=torch.float64) for value in (K, DELTA))
    loss = reference.dc_loss(error, torch.zeros_like(error), k, delta, None, form, "none")
    return loss.detach(), torch.autograd.grad(loss.sum(), error)[0]


def alpha(error: Tensor, form: str = "equation") -> Tensor:
    return torch.sigmoid((K if form == "equation" else -K) * (error - DELTA))


ERRORS = torch.linspace(1e-6, 5, 500_001, dtype=torch.float64)


def test_equation_form_goes_from_absolute_to_squared() -> None:
    loss, slope = loss_and_slope(ERRORS, "equation")
    assert slope[0].item() == pytest.approx(1 - 1 / (1 + math.exp(K * DELTA)), abs=1e-4)
    assert slope[0].item() == pytest.approx(0.818, abs=5e-4)
    assert slope[-1].item() == pytest.approx(2 * ERRORS[-1].item(), rel=1e-9)
    assert loss[-1].item() == pytest.approx(ERRORS[-1].item() ** 2, rel=1e-9)


def test_text_form_goes_from_squared_to_absolute() -> None:
    loss, slope = loss_and_slope(ERRORS, "text")
    assert slope[0].item() == pytest.approx(0.18, abs=5e-3)
    assert slope.max().item() == pytest.approx(1.245, abs=5e-4)
    assert ERRORS[slope.argmax()].item() == pytest.approx(0.279, abs=5e-4)
    assert slope[-1].item() == pytest.approx(1.0, rel=1e-9)
    assert loss[-1].item() == pytest.approx(ERRORS[-1].item(), rel=1e-9)


@pytest.mark.parametrize("form", ["equation", "text"])
def test_exact_derivatives(form: str) -> None:
    """Those that the kernels use, against autograd through Eq. 9-10."""
    error = ERRORS[:: len(ERRORS) // 500].detach().requires_grad_()
    k, delta = (torch.full_like(error, value, requires_grad=True) for value in (K, DELTA))
    loss = reference.dc_loss(error, torch.zeros_like(error), k, delta, None, form, "none")
    slopes = torch.autograd.grad(loss.sum(), (error, k, delta))
    with torch.no_grad():
        a, sign = alpha(error, form), 1 if form == "equation" else -1
        transition = sign * a * (1 - a) * error * (error - 1)
        exact = (
            2 * a * error + (1 - a) + K * transition,
            transition * (error - DELTA),
            -K * transition,
        )
    for slope, formula in zip(slopes, exact, strict=True):
        torch.testing.assert_close(slope, formula, rtol=1e-10, atol=1e-12)


def test_the_printed_derivative_is_off() -> None:
    """Eq. 11 has e (e - delta) in its transition term where e (e - 1) belongs."""
    _, slope = loss_and_slope(ERRORS, "equation")
    a = alpha(ERRORS)
    printed = 2 * a * ERRORS + (1 - a) + K * a * (1 - a) * ERRORS * (ERRORS - DELTA)
    assert (printed - slope).abs().max().item() == pytest.approx(0.42, abs=5e-3)


def test_the_slope_is_steeper_than_corollary_1_says() -> None:
    _, slope = loss_and_slope(ERRORS, "equation")
    curvature = slope.diff() / ERRORS.diff()
    assert curvature.abs().max().item() == pytest.approx(3.61, abs=5e-3)
    bound = math.sqrt(2 / (DELTA**2 + 1)) / DELTA
    assert bound == pytest.approx(9.32, abs=5e-3)
    assert bound < K < 10.8


def test_the_gate_has_a_shortcut() -> None:
    """Below an error of 1 the loss falls with k and delta while the prediction stands still."""
    pred = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    k, delta = (
        torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (K, DELTA)
    )
    loss = reference.dc_loss(pred, torch.zeros_like(pred), k, delta)
    grad_delta = torch.autograd.grad(loss, delta)[0]
    assert grad_delta > 0, "a smaller delta moves every gate towards the square"


@pytest.mark.parametrize("name", ["x8", "per_channel", "one_pixel_low"])
def test_modules_call_the_functions(name: str) -> None:
    s: Shape = SHAPES[name]
    block = reference.EFPNBS(s.high, s.low, s.hidden, s.gates).double()
    p_low, p_high = list(block_problem("efpn_bs", case(name, torch.float64)).tensors.values())[:2]
    parameters = tuple(block.parameters())
    out = block(p_low, p_high)
    assert out.equal(reference.efpn_bs(p_low, p_high, *parameters))
    assert out.shape == p_low.shape
    mask = block.mask(p_low, p_high)
    assert mask.shape == (s.n, s.gates, *s.low_size)
    assert ((mask > 0) & (mask < 1)).all()


def test_the_mean_of_nothing_is_zero() -> None:
    empty, k, delta = torch.zeros(0, 4), torch.tensor(K), torch.tensor(DELTA)
    assert reference.dc_loss(empty, empty, k, delta).item() == 0.0
