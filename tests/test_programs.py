"""Programs that were made for one memory layout, called with every other."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from conftest import Backend
from test_layouts import VIEWS
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from efpn_kernels import CEM, EFPNBS, FBSM, backends, reference, use_backend

MODULES = {"cem": CEM, "fbsm": FBSM, "efpn_bs": EFPNBS}
Program = Callable[[Tensor, Tensor], Tensor]


def maps(device: str, n: int = 2, size: tuple[int, int] = (9, 10)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    low, high = ((n, 6, *size), (n, 7, 3, 4))
    return tuple(torch.randn(shape, generator=generator).to(device) for shape in (low, high))


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@cache
def modules(operator: str, device: str) -> tuple[nn.Module, nn.Module]:
    """The fused module and its twin."""
    torch.manual_seed(0)
    ours = MODULES[operator](7, 6).to(device).eval()
    twin = getattr(reference, type(ours).__name__)(7, 6).to(device).eval()
    twin.load_state_dict(ours.state_dict())
    return ours, twin


def exported(module: nn.Module, *example: Tensor, dynamic: bool = False) -> Program:
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 2: free, 3: free}, {0: free}) if dynamic else None
    return torch.export.export(module, example, dynamic_shapes=shapes).module()


def direct(module: nn.Module, *example: Tensor) -> Program:
    """The dispatcher's operator, of the backend that ran the example."""
    backend = backends.select("efpn_bs", example[0])
    namespace = getattr(torch.ops, backends.DESCRIPTORS[backend].namespace)
    parameters = [p.detach() for p in module.parameters()]
    if isinstance(module, CEM):
        return lambda low, high: namespace.cem(low, high, *parameters)[0]
    missing = [None, None] if isinstance(module, FBSM) else []
    return lambda low, high: namespace.efpn_bs(low, high, *missing, *parameters)[0]


def packaged(module: nn.Module, *example: Tensor) -> Program:
    """AOTInductor."""
    with torch.no_grad():
        program = torch.export.export(module, example)
        path = torch._inductor.aoti_compile_and_package(program)
        return torch._inductor.aoti_load_package(path)


MAKERS: dict[str, Callable[..., Program]] = {
    "export": exported,
    "export of channels_last": lambda m, *xs: exported(m, *map(channels_last, xs)),
    "strict export": lambda m, *xs: torch.export.export(m, xs, strict=True).module(),
    "dynamic export": lambda m, *xs: exported(m, *xs, dynamic=True),
    "make_fx": lambda m, *xs: make_fx(lambda low, high: m(low, high))(*xs),
    "direct call": direct,
    "AOTInductor": packaged,
}


@cache
def program_of(kind: str, operator: str, backend: Backend) -> Program:
    with use_backend(backend.name), torch.no_grad():
        return MAKERS[kind](modules(operator, backend.device)[0], *maps(backend.device))


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
@pytest.mark.parametrize("operator", MODULES)
@pytest.mark.parametrize("kind", MAKERS)
def test_other_strides(
    backend: Backend, kind: str, operator: str, view: Callable[[Tensor], Tensor]
) -> None:
    program, twin = program_of(kind, operator, backend), modules(operator, backend.device)[1]
    low, high = maps(backend.device)
    with torch.no_grad():
        for inputs in ((view(low), high), (low, view(high)), (view(low), view(high))):
            torch.testing.assert_close(program(*inputs), twin(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operator", MODULES)
def test_other_sizes(backend: Backend, operator: str) -> None:
    program = program_of("dynamic export", operator, backend)
    twin = modules(operator, backend.device)[1]
    with torch.no_grad():
        for n, size in ((3, (12, 7)), (4, (5, 31)), (5, (2, 2))):
            low, high = maps(backend.device, n, size)
            for inputs in ((low, high), (low[:, :, :1, :1].expand_as(low), channels_last(high))):
                torch.testing.assert_close(program(*inputs), twin(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operator", MODULES)
def test_an_exported_program_trains(backend: Backend, operator: str) -> None:
    """Its node is the dispatcher's operator, which is differentiable."""
    ours, twin = modules(operator, backend.device)
    program = exported(ours, *maps(backend.device))
    grads = []
    for function, owner in ((program, program), (twin, twin)):
        inputs = [x.requires_grad_() for x in maps(backend.device)]
        wanted = [*inputs, *owner.parameters()]
        grads.append(torch.autograd.grad(function(*inputs).square().sum(), wanted))
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_a_state_that_is_handed_out_has_no_gradient(backend: Backend) -> None:
    ours, _ = modules("cem", backend.device)
    namespace = getattr(torch.ops, backends.DESCRIPTORS[backend.name].namespace)
    arguments = (*maps(backend.device), *ours.parameters())
    with pytest.raises(RuntimeError, match=r"save: expected False.*use_backend\(\"reference\"\)"):
        namespace.cem(*arguments, False, True)
    with torch.no_grad():
        _, state = namespace.cem(*arguments, False, True)
    with pytest.raises(RuntimeError, match=r"weight: .*use_backend\(\"reference\"\)"):
        namespace.cem_backward(arguments[0], *arguments[1:], state)
