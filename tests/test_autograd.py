"""Autograd: gradcheck, double backward, frozen arguments, and what is kept for backward."""

from __future__ import annotations

from typing import Any

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
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from efpn_kernels import EFPNBS, use_backend
from efpn_kernels.ops import autograd
from efpn_kernels.reference import FORMS, REDUCTIONS

TINY = {
    "one_gate": Shape(2, 2, 3, 3, (4, 5), (2, 3)),
    "per_channel": Shape(1, 2, 3, 2, (3, 4), (2, 2), per_channel=True),
    "downsampled": Shape(1, 2, 2, 3, (2, 3), (4, 5)),
    "one_pixel": Shape(1, 2, 2, 2, (1, 2), (1, 1)),
}
LOSSES = [
    LossCase((5, 4), torch.float64, form, reduction, weight, parameter_dtype=torch.float64)
    for form in FORMS
    for reduction in REDUCTIONS
    for weight in ("none", "row")
]


def saved_bytes(problem: Problem, function: Any) -> int:
    """Bytes kept for backward: every storage once, without the operator's arguments and result.

    Those the network keeps anyway.
    """
    owned = {x.untyped_storage().data_ptr() for x in problem.tensors.values()}
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in owned:
            storages[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = function(*problem.tensors.values(), **problem.options)
    assert out.requires_grad
    storages.pop(out.untyped_storage().data_ptr(), None)
    return sum(storages.values())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", TINY)
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_gradcheck(backend: Backend, operator: str, shape: str, layout: str) -> None:
    tiny = Case(shape, TINY[shape], torch.float64, layout)
    problem = block_problem(operator, tiny, backend.device)
    assert torch.autograd.gradcheck(
        problem.functional, tuple(problem.tensors.values()), fast_mode=True
    )


@pytest.mark.parametrize("case", LOSSES, ids=str)
def test_gradcheck_of_the_loss(backend: Backend, case: LossCase) -> None:
    problem = loss_problem(case, backend.device)
    pred, target, *rest = problem.tensors.values()
    # The absolute value has a kink where pred and target meet; finite differences must not step on it.
    pred = (target + (pred - target).sign() * (0.05 + (pred - target).abs())).detach()

    def function(*args: Tensor) -> Tensor:
        return problem.functional(*args, *rest[2:], **problem.options)

    arguments = (pred.requires_grad_(), target, *rest[:2])
    assert torch.autograd.gradcheck(function, arguments)


def every_problem(device: str) -> dict[str, Problem]:
    problems = {op: block_problem(op, case("x2"), device) for op in BLOCK_OPERATORS}
    problems["efpn_bs_per_channel"] = block_problem("efpn_bs", case("per_channel"), device)
    for reduction in REDUCTIONS:
        loss = LossCase((33, 4), reduction=reduction)
        problems[f"dc_loss_{reduction}"] = loss_problem(loss, device)
    return problems


PROBLEMS = list(every_problem("cpu"))


@pytest.mark.parametrize("name", PROBLEMS)
def test_double_backward_raises(backend: Backend, name: str) -> None:
    problem = every_problem(backend.device)[name]
    out = problem.functional(*problem.tensors.values(), **problem.options)
    leaves = [x for x in problem.tensors.values() if x.requires_grad]
    with pytest.raises(RuntimeError, match="double backward"):
        grads = torch.autograd.grad(out.sum(), leaves, create_graph=True)
        torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)


@pytest.mark.parametrize("how", ["forward_ad", "func.jvp"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_forward_mode_raises(backend: Backend, name: str, how: str) -> None:
    """Whichever argument has the tangent; without one, and on the reference, the call goes on."""
    problem = every_problem(backend.device)[name]
    tensors = {n: x.detach() for n, x in problem.tensors.items()}
    for one, x in tensors.items():
        if one == "weight":
            continue

        def function(x: Tensor, one: str = one) -> Tensor:
            return problem.functional(*(tensors | {one: x}).values(), **problem.options)

        with pytest.raises(RuntimeError, match=r"forward-mode.*use_backend\(\"reference\"\)"):
            if how == "func.jvp":
                torch.func.jvp(function, (x,), (x,))
            else:
                with forward_ad.dual_level():
                    function(forward_ad.make_dual(x, x))
    with forward_ad.dual_level():
        function(x)
    with use_backend("reference"):
        _, tangent = torch.func.jvp(function, (x,), (x,))
    assert tangent.abs().max() > 0


TRANSFORMS: dict[str, Any] = {
    "vmap": lambda f, x: torch.func.vmap(f)(x[None]),
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "hessian": lambda f, x: torch.func.hessian(lambda x: f(x).sum())(x),
    "jacobian(vectorize=True)": lambda f, x: torch.autograd.functional.jacobian(
        f, x, vectorize=True
    ),
    "is_grads_batched": lambda f, x: torch.autograd.grad(
        (out := f(x.requires_grad_())), x, torch.stack([out, out]), is_grads_batched=True
    ),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_transforms_are_refused(backend: Backend, name: str, transform: str) -> None:
    """One answer for all of them, that names the way out, which works."""
    problem = every_problem(backend.device)[name]
    first, *rest = (x.detach() for x in problem.tensors.values())

    def function(x: Tensor) -> Tensor:
        return problem.functional(x, *rest, **problem.options)

    with pytest.raises(RuntimeError, match=r"not supported.*use_backend\(\"reference\"\)"):
        TRANSFORMS[transform](function, first.clone())
    if transform in ("vmap", "grad", "vjp"):
        with use_backend("reference"):
            TRANSFORMS[transform](function, first.clone())
    assert function(first).shape == problem.fused()["out"].shape


@pytest.mark.parametrize("name", PROBLEMS)
def test_nothing_is_kept_without_gradients(backend: Backend, name: str) -> None:
    problem = every_problem(backend.device)[name]
    kept = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        with torch.no_grad():
            out = problem.functional(*problem.tensors.values(), **problem.options)
        assert out.grad_fn is None
        frozen = [x.detach() for x in problem.tensors.values()]
        out = problem.functional(*frozen, **problem.options)
        assert not out.requires_grad
    assert not kept


@pytest.mark.parametrize("name", PROBLEMS)
def test_one_argument_alone_may_require_a_gradient(backend: Backend, name: str) -> None:
    problem = every_problem(backend.device)[name]
    expected = problem.fused()
    wanted = [name for name, x in problem.tensors.items() if x.requires_grad]
    for one in wanted:
        tensors = {n: x.detach().requires_grad_(n == one) for n, x in problem.tensors.items()}
        alone = Problem(
            problem.functional, problem.reference, tensors, problem.options, problem.grad_out
        ).fused()
        assert set(alone) == {"out", f"grad_{one}"}
        torch.testing.assert_close(alone[f"grad_{one}"], expected[f"grad_{one}"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_kept_for_backward(backend: Backend, layout: str) -> None:
    """Channels as in a detector; the ratio does not depend on the number of pixels."""
    shape = Shape(1, 256, 256, 256, (48, 48), (6, 6))
    problem = block_problem("efpn_bs", Case("memory", shape, layout=layout), backend.device)
    ours = saved_bytes(problem, problem.functional)
    eager = saved_bytes(problem, problem.reference)
    assert ours <= 0.35 * eager, f"{ours / eager:.3f} of eager's {eager / 2**20:.1f} MiB"


@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arguments_are_left_alone(backend: Backend, operator: str, layout: str) -> None:
    problem = block_problem(operator, case("x2", layout=layout), backend.device)
    before = {name: x.detach().clone() for name, x in problem.tensors.items()}
    grad_before = problem.grad_out.clone()
    problem.fused()
    for name, x in problem.tensors.items():
        assert x.detach().equal(before[name]), name
    assert problem.grad_out.equal(grad_before)


def test_retained_graph_gives_the_same_gradients_again(backend: Backend) -> None:
    problem = block_problem("efpn_bs", case("x2"), backend.device)
    out = problem.functional(*problem.tensors.values())
    leaves = list(problem.tensors.values())
    first = torch.autograd.grad(out, leaves, problem.grad_out, retain_graph=True)
    copies = [g.clone() for g in first]
    for g in first:
        g.zero_()
    for g, expected in zip(torch.autograd.grad(out, leaves, problem.grad_out), copies, strict=True):
        assert g.equal(expected)


class Casts(TorchDispatchMode):
    """Counts casts of one tensor at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_is_cast_one_by_one_under_autocast(
    backend: Backend, parameters: torch.dtype
) -> None:
    """Neither parameters on their way in nor their gradients on their way out."""
    block = EFPNBS(7, 6).to(backend.device, parameters)
    low, high = (
        torch.randn(shape, device=backend.device).bfloat16()
        for shape in ((2, 6, 9, 10), (2, 7, 3, 4))
    )
    with Casts() as casts:
        with torch.autocast(backend.device, torch.bfloat16):
            out = block(low, high)
        out.backward(torch.ones_like(out))
    assert casts.count == 0
    assert all(p.grad.dtype == parameters for p in block.parameters())


def test_autocast_casts_every_dtype_but_its_own_and_float64() -> None:
    dtypes = torch.float16, torch.float32, torch.bfloat16, torch.float64
    given = [torch.ones(2, dtype=dtype) for dtype in dtypes]
    found = autograd.autocast([*given, None], torch.bfloat16)
    assert [x.dtype for x in found[:3]] == [torch.bfloat16] * 3
    assert found[2] is given[2] and found[3] is given[3] and found[4] is None
