"""How an operator is put into a backend's namespace: schema, kernels, fake, autograd, autocast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from .kernels import LIBRARIES

_AUTOCAST = {
    "cpu": ("AutocastCPU", torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)),
    "cuda": ("AutocastCUDA", torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)),
}
ALL_AUTOCAST = _AUTOCAST["cpu"][1] | _AUTOCAST["cuda"][1]


def define(
    namespace: str,
    name: str,
    schema: str,
    implementation: Callable[..., Any],
    fake: Callable[..., Any],
    one_dtype: bool = False,
) -> None:
    """Define ``namespace::name`` with a composed implementation for every device.

    The library calls inside run in the dtypes that they are given, also where a backward pass runs
    under autocast. ``one_dtype``: refuse tensors of different dtypes.
    """

    @wraps(implementation)
    def without_autocast(*args: Any) -> Any:
        if one_dtype:
            refuse_mixed(op, args)
        with torch._C._ExcludeDispatchKeyGuard(ALL_AUTOCAST):
            return implementation(*args)

    library = LIBRARIES[namespace]
    library.define(name + schema)
    op = getattr(getattr(torch.ops, namespace), name).default
    for key in ("CPU", "CUDA"):
        library.impl(name, without_autocast, key)
    torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)


def differentiable(
    namespace: str, name: str, setup_context: Callable[..., None], backward: Callable[..., Any]
) -> None:
    """Attach a gradient to ``namespace::name``, so that direct callers of the dispatcher train too."""
    torch.library.register_autograd(
        f"{namespace}::{name}", backward, setup_context=setup_context, lib=LIBRARIES[namespace]
    )


def once_differentiable(namespace: str, name: str) -> None:
    """Make a second differentiation through the backward operator ``namespace::name`` fail loudly."""

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    def backward(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(
            f"{namespace}::{name}: double backward is not supported; "
            'run it through efpn_kernels.use_backend("reference")'
        )

    differentiable(namespace, name, setup_context, backward)


def refuse_mixed(
    op: torch._ops.OpOverload, args: Sequence[Any], fixed: tuple[int, ...] = ()
) -> None:
    """Raise unless the tensors of a call have one dtype, those at the positions ``fixed`` aside.

    Kernels read every tensor in the dtype of the first one, whatever its own.
    """
    dtype = args[0].dtype
    for i, a in enumerate(args):
        if isinstance(a, Tensor) and a.dtype != dtype and i not in fixed:
            first, name = (op._schema.arguments[j].name for j in (0, i))
            raise TypeError(
                f"{op._schema.name}: {name}: expected the dtype of {first} ({dtype}), got {a.dtype}"
            )


def is_cast(a: Any) -> bool:
    """Whether autocast casts an argument: a floating-point tensor, but for float64."""
    return isinstance(a, Tensor) and a.is_floating_point() and a.dtype != torch.float64


def autocast(
    namespace: str, name: str, dtype_of: Callable[[str], torch.dtype], fixed: tuple[int, ...] = ()
) -> None:
    """Run ``namespace::name`` in ``dtype_of(device_type)`` under autocast.

    Every floating-point tensor argument is cast, but for float64 ones and those at the positions
    ``fixed``; float64 beside another dtype raises.
    """
    op = getattr(getattr(torch.ops, namespace), name).default
    for device_type, (key, keyset) in _AUTOCAST.items():

        def kernel(
            *args: Any, _device_type: str = device_type, _keyset: torch._C.DispatchKeySet = keyset
        ) -> Any:
            dtype = dtype_of(_device_type)
            cast = [a.to(dtype) if is_cast(a) and i not in fixed else a for i, a in enumerate(args)]
            refuse_mixed(op, cast, fixed)
            with torch._C._ExcludeDispatchKeyGuard(_keyset):
                return op(*cast)

        LIBRARIES[namespace].impl(name, kernel, key)
