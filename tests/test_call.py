"""The short way to an operator gives what the operator in the dispatcher gives."""

from __future__ import annotations

import pytest
import torch
from cases import block_problem, case
from conftest import Backend
from torch import Tensor

from efpn_kernels import backends, functional
from efpn_kernels.ops import call

CASES = ("x2", "per_channel", "odd_channels")


def through_the_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    def generic(namespace: str, name: str, _: bool, *arguments: object) -> Tensor:
        return getattr(getattr(torch.ops, namespace), name)(*arguments)[0]

    monkeypatch.setattr(functional, "call", generic)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("operator", ("cem", "fbsm", "efpn_bs"))
@pytest.mark.parametrize("name", CASES)
def test_same_bits(
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    operator: str,
    dtype: torch.dtype,
) -> None:
    problem = block_problem(operator, case(name, dtype=dtype), backend.device)
    short = problem.fused()
    through_the_dispatcher(monkeypatch)
    generic = problem.fused()
    assert set(short) == set(generic)
    for result, value in short.items():
        assert torch.equal(value, generic[result]), result


@pytest.mark.parametrize("operator", ("cem", "fbsm", "efpn_bs"))
@pytest.mark.parametrize("name", CASES)
def test_autocast(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, name: str, operator: str
) -> None:
    """The same output; gradients of parameters are not rounded to the dtype of the maps on their way."""
    problem = block_problem(operator, case(name), backend.device)

    def forward() -> Tensor:
        with torch.autocast(backend.device, torch.bfloat16):
            return problem.functional(*problem.tensors.values(), **problem.options)

    def gradients() -> tuple[Tensor, ...]:
        leaves = [x for x in problem.tensors.values() if x.requires_grad]
        out = forward()
        assert out.dtype == torch.bfloat16
        return out.detach(), *torch.autograd.grad(out, leaves, problem.grad_out.bfloat16())

    short = gradients()
    through_the_dispatcher(monkeypatch)
    generic = gradients()
    assert torch.equal(short[0], generic[0])
    finer = 0
    for ours, theirs in zip(short[1:], generic[1:], strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(ours.bfloat16(), theirs.bfloat16(), rtol=2**-7, atol=1e-3)
        finer += not torch.equal(ours, ours.bfloat16().float())
    assert finer > 0


def test_cast_all_leaves_what_fits() -> None:
    tensors = [torch.ones(2, dtype=d) for d in (torch.float32, torch.bfloat16, torch.float32)]
    cast = call.cast_all(tensors, torch.bfloat16)
    assert [x.dtype for x in cast] == [torch.bfloat16] * 3
    assert cast[1] is tensors[1]
    assert all(torch.equal(x, torch.ones(2, dtype=torch.bfloat16)) for x in cast)
    assert call.cast_all(tensors[1:2], torch.bfloat16)[0] is tensors[1]


def test_every_backend_has_the_short_way() -> None:
    namespaces = set(backends.NAMESPACE.values())
    assert set(call.OPERATORS) == {(n, o) for n in namespaces for o in ("cem", "efpn_bs")}
