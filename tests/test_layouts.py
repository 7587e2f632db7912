"""Views of every kind as inputs and as incoming gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from accuracy import assert_accurate
from cases import BLOCK_OPERATORS, Case, LossCase, Problem, block_problem, case, loss_problem
from conftest import Backend
from torch import Tensor


def sliced(x: Tensor) -> Tensor:
    """Every dimension a part of a larger one, every second channel."""
    n, c, h, w = x.shape
    storage = x.new_full((n + 1, 2 * c, h + 2, w + 3), float("nan"))
    view = storage[1:, ::2, 1:-1, 2:-1]
    return view.copy_(x)


def unaligned(x: Tensor) -> Tensor:
    """Contiguous, one element past the start of its storage."""
    storage = x.new_full((x.numel() + 1,), float("nan"))
    return storage[1:].view(x.shape).copy_(x)


def unaligned_channels_last(x: Tensor) -> Tensor:
    return unaligned(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def channels_last_slice(x: Tensor) -> Tensor:
    """channels_last with a pixel stride that is larger than the number of channels."""
    n, c, h, w = x.shape
    storage = x.new_full((n, h, w, c + 3), float("nan"))
    return storage[..., 1 : c + 1].copy_(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def batch_last(x: Tensor) -> Tensor:
    return x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def expanded_batch(x: Tensor) -> Tensor:
    return x[:1].expand_as(x)


def expanded_pixels(x: Tensor) -> Tensor:
    return x[:, :, :1, :1].expand_as(x)


def expanded_scalar(x: Tensor) -> Tensor:
    """What the backward of ``sum`` hands down."""
    return x.flatten()[0].expand_as(x)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def negative(x: Tensor) -> Tensor:
    """A view that is to be read with the other sign."""
    return torch._neg_view(-x)


VIEWS: tuple[Callable[[Tensor], Tensor], ...] = (
    sliced,
    unaligned,
    unaligned_channels_last,
    channels_last_slice,
    transposed,
    batch_last,
    expanded_batch,
    expanded_pixels,
    expanded_scalar,
    channels_last,
    negative,
)
view_of = pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
of_every_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


def viewed(problem: Problem, view: Callable[[Tensor], Tensor], *names: str) -> Problem:
    """The same problem with a view in the place of these arguments."""
    for name in names:
        x = view(problem.tensors[name].detach())
        problem.tensors[name] = x.requires_grad_(problem.tensors[name].requires_grad)
    return problem


@view_of
@of_every_layout
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_maps(
    backend: Backend, operator: str, layout: str, view: Callable[[Tensor], Tensor]
) -> None:
    def make(seed: int) -> Problem:
        dense = case("non_dividing", layout=layout)
        problem = block_problem(operator, dense, backend.device, seed)
        return viewed(problem, view, *list(problem.tensors)[:2])

    assert_accurate(make)


@view_of
@of_every_layout
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_grad_out(
    backend: Backend, operator: str, layout: str, view: Callable[[Tensor], Tensor]
) -> None:
    def make(seed: int) -> Problem:
        dense = case("non_dividing", layout=layout)
        problem = block_problem(operator, dense, backend.device, seed)
        problem.grad_out = view(problem.grad_out)
        return problem

    assert_accurate(make)


@view_of
@pytest.mark.parametrize("name", ["non_dividing", "per_channel"])
def test_weights(backend: Backend, name: str, view: Callable[[Tensor], Tensor]) -> None:
    def make(seed: int) -> Problem:
        problem = block_problem("efpn_bs", case(name), backend.device, seed)
        weights = [argument for argument in problem.tensors if argument.endswith("_weight")]
        return viewed(problem, view, *weights)

    assert_accurate(make)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("view", [sliced, unaligned, expanded_scalar], ids=lambda v: v.__name__)
def test_narrow_dtypes(
    backend: Backend, dtype: torch.dtype, view: Callable[[Tensor], Tensor]
) -> None:
    def make(seed: int) -> Problem:
        problem = block_problem("efpn_bs", case("x8", dtype), backend.device, seed)
        problem.grad_out = view(problem.grad_out)
        return viewed(problem, view, "p_low", "p_high")

    assert_accurate(make)


@pytest.mark.parametrize("mixed", ["p_low", "p_high", "refine_weight", "low_conv_weight"])
def test_mixed_formats(backend: Backend, mixed: str) -> None:
    def make(seed: int) -> Problem:
        problem = block_problem("efpn_bs", case("non_dividing"), backend.device, seed)
        return viewed(problem, channels_last, mixed)

    assert_accurate(make)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_result_has_the_format_of_the_low_map(backend: Backend, operator: str, layout: str) -> None:
    problem = block_problem(operator, case("non_dividing", layout=layout), backend.device)
    results = problem.fused()
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    low = "grad_c_low" if operator == "fbsm" else "grad_p_low"
    assert results["out"].is_contiguous(memory_format=memory_format)
    assert results[low].is_contiguous(memory_format=memory_format)


LOSS_VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": lambda x: x.new_zeros(x.shape[0], 2 * x.shape[1])[:, ::2].copy_(x),
    "transposed": lambda x: x.t().contiguous().t(),
    "unaligned": unaligned,
    "expanded": lambda x: x[:, :1].expand_as(x),
    "expanded_scalar": expanded_scalar,
}


@pytest.mark.parametrize("view", LOSS_VIEWS.values(), ids=LOSS_VIEWS.keys())
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    "names", [("pred",), ("target",), ("weight",), ("pred", "target")], ids="-".join
)
def test_loss(
    backend: Backend, names: tuple[str, ...], reduction: str, view: Callable[[Tensor], Tensor]
) -> None:
    def make(seed: int) -> Problem:
        loss = LossCase((65, 4), reduction=reduction, weight="full")
        problem = viewed(loss_problem(loss, backend.device, seed), view, *names)
        if problem.grad_out is not None:
            problem.grad_out = view(problem.grad_out)
        return problem

    assert_accurate(make)


def test_loss_on_channels_last_maps(backend: Backend) -> None:
    def make(seed: int) -> Problem:
        loss = LossCase((2, 4, 5, 6), reduction="none")
        problem = loss_problem(loss, backend.device, seed)
        problem.grad_out = channels_last(problem.grad_out)
        return viewed(problem, channels_last, "pred", "target")

    assert_accurate(make)


@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_non_leaf_inputs_and_sum_backward(backend: Backend, operator: str) -> None:
    """As in a network: inputs come from operators, the gradient from an expanded scalar."""
    small = Case("x8", case("x8").shape, torch.float64)
    problem = block_problem(operator, small, backend.device)
    grads = []
    for function in (problem.functional, problem.reference):
        leaves = [x.detach().requires_grad_() for x in problem.tensors.values()]
        function(*(1.5 * x for x in leaves)).sum().backward()
        grads.append([x.grad for x in leaves])
    torch.testing.assert_close(*grads)
