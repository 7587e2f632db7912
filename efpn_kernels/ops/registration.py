"""How an operator is put into a backend's namespace: schema, fake, autocast, and what a gradient meets there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .kernels import LIBRARIES

_AUTOCAST = {
    "cpu": ("AutocastCPU", torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)),
    "cuda": ("AutocastCUDA", torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)),
}
ALL_AUTOCAST = _AUTOCAST["cpu"][1] | _AUTOCAST["cuda"][1]


def define(namespace: str, name: str, schema: str, fake: Callable[..., Any]) -> None:
    """Define ``namespace::name``, whose kernels the backends register."""
    library = LIBRARIES[namespace]
    library.define(name + schema)
    register_fake(namespace, name, fake)


def register_fake(namespace: str, name: str, fake: Callable[..., Any]) -> None:
    """Attach ``fake``, which a single tensor on "meta" calls too: all must be on one device, as for the kernels."""
    arguments = getattr(getattr(torch.ops, namespace), name).default._schema.arguments

    def checked(*args: Any) -> Any:
        first = args[0].device
        for argument, value in zip(arguments, args, strict=False):
            for x in value if isinstance(value, list) else (value,):
                if isinstance(x, Tensor) and x.device != first:
                    raise ValueError(
                        f"{name}: {argument.name}: expected the device of {arguments[0].name} "
                        f"({first}), got {x.device}"
                    )
        return fake(*args)

    torch.library.register_fake(f"{namespace}::{name}", checked, lib=LIBRARIES[namespace])


def refuse_gradients(namespace: str, name: str) -> None:
    """Make ``namespace::name`` raise for tensors that want a gradient, instead of losing it."""
    op = getattr(getattr(torch.ops, namespace), name).default

    def kernel(*args: Any) -> Any:
        if torch.is_grad_enabled():
            for i, a in enumerate(args):
                if isinstance(a, Tensor) and a.requires_grad:
                    raise RuntimeError(
                        f"{namespace}::{name}: {op._schema.arguments[i].name}: expected "
                        f"requires_grad=False, got True; {WITHOUT_GRADIENT}"
                    )
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    LIBRARIES[namespace].impl(name, kernel, "Autograd")


WITHOUT_GRADIENT = (
    "the operator has no gradient of its own; call efpn_kernels.functional, or the operator under "
    'torch.no_grad(), or plain PyTorch through efpn_kernels.use_backend("reference")'
)


def is_cast(a: Any) -> bool:
    """Whether autocast casts an argument: a floating-point tensor, but for float64."""
    return isinstance(a, Tensor) and a.is_floating_point() and a.dtype != torch.float64


def autocast(
    namespace: str,
    name: str,
    dtype_of: Callable[[str], torch.dtype] | None,
    fixed: Sequence[int] = (),
) -> None:
    """Run ``namespace::name`` in ``dtype_of(device_type)`` under autocast, or as it is called for None.

    Every floating-point tensor argument is cast, but for float64 ones and those at the positions ``fixed``.
    What the operator calls of the library runs in the dtypes that it is given.
    """
    op = getattr(getattr(torch.ops, namespace), name).default
    for device_type, (key, keyset) in _AUTOCAST.items():

        def kernel(
            *args: Any, _device_type: str = device_type, _keyset: torch._C.DispatchKeySet = keyset
        ) -> Any:
            if dtype_of is not None:
                dtype = dtype_of(_device_type)
                args = tuple(
                    a.to(dtype) if is_cast(a) and i not in fixed else a for i, a in enumerate(args)
                )
            with torch._C._ExcludeDispatchKeyGuard(_keyset):
                return op(*args)

        LIBRARIES[namespace].impl(name, kernel, key)
