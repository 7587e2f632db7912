"""Operators by the short way: an ``autograd.Function`` without the generic Python of ``torch.library``.

That machinery reads the whole schema anew for every argument of a call, casts under autocast one tensor and
one node of the graph at a time, and wraps backward a second time. For a block of seventeen arguments this
takes longer than to launch all of its kernels. The operator in the dispatcher keeps it: for direct callers,
compilers, exporters and the transforms of ``torch.func``, which see operators and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import operator as dispatcher
from .kernels import accumulate_dtype


class Operator(NamedTuple):
    """What the short way needs to know of ``namespace::name``, whose first result is the output."""

    forward: Callable[..., tuple[Tensor, ...]]
    save: Callable[[Any, tuple[Any, ...], tuple[Tensor, ...]], None]
    """Keeps for backward, from the arguments and the results of forward."""
    gradients: Callable[[Any, Tensor, torch.dtype | None], tuple[Tensor | None, ...]]
    """Of every argument, from that of the output; the dtype is the parameters', None for their own."""


OPERATORS: dict[tuple[str, str], Operator] = {}


def cast_all(tensors: Iterable[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The tensors in ``dtype``, those that have another one by one launch for all."""
    out = list(tensors)
    others = [i for i, x in enumerate(out) if x.dtype != dtype]
    if others:
        sources = [out[i] for i in others]
        for i, x in zip(others, sources, strict=True):
            out[i] = torch.empty_like(x, dtype=dtype)
        torch._foreach_copy_([out[i] for i in others], sources)
    return out


def _autocast(arguments: tuple[Any, ...], dtype: torch.dtype) -> list[Any]:
    out = list(arguments)
    which = [i for i, a in enumerate(arguments) if dispatcher.is_cast(a)]
    for i, x in zip(which, cast_all((arguments[i] for i in which), dtype), strict=True):
        out[i] = x
    return out


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operator: Operator, dtype: torch.dtype | None, *arguments: Any) -> Tensor:
        inputs, output = _run(operator, dtype, arguments)
        ctx.set_materialize_grads(False)
        ctx.operator = operator
        # Sums over pixels are in the accumulation dtype, and so are the parameters that autocast casts.
        ctx.grad_dtype = None if dtype is None else accumulate_dtype(inputs[0].dtype)
        operator.save(ctx, inputs, output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_out is None:
            return (None,) * len(ctx.needs_input_grad)
        # With create_graph=True it is the operator in the dispatcher that refuses a second backward.
        if torch.is_grad_enabled():
            grads = ctx.operator.gradients(ctx, grad_out, ctx.grad_dtype)
        else:
            with torch._C._AutoDispatchBelowAutograd():
                grads = ctx.operator.gradients(ctx, grad_out, ctx.grad_dtype)
        return None, None, *_needed(ctx.needs_input_grad[2:], grads)


def _run(
    operator: Operator, dtype: torch.dtype | None, arguments: tuple[Any, ...]
) -> tuple[tuple[Any, ...], tuple[Tensor, ...]]:
    with torch._C._AutoDispatchBelowAutograd():
        if dtype is None:
            return arguments, operator.forward(*arguments)
        with torch._C._ExcludeDispatchKeyGuard(dispatcher.ALL_AUTOCAST):
            inputs = tuple(_autocast(arguments, dtype))
            return inputs, operator.forward(*inputs)


def differentiable(namespace: str, name: str, operator: Operator) -> None:
    """Attach the gradient of ``operator`` to both ways: to ``namespace::name``, and to :func:`call`."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        operator.save(ctx, inputs, output)

    def backward(ctx: Any, grad_out: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad_out is None:
            return (None,) * len(ctx.needs_input_grad)
        return _needed(ctx.needs_input_grad, operator.gradients(ctx, grad_out, None))

    dispatcher.differentiable(namespace, name, setup_context, backward)
    OPERATORS[namespace, name] = operator


def _needed(needs: tuple[bool, ...], grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(g if n else None for g, n in zip(grads, needs, strict=True))


def call(namespace: str, name: str, keep: bool, *arguments: Any) -> Tensor:
    """The output of ``namespace::name``; ``keep`` says whether it will be differentiated."""
    operator = OPERATORS[namespace, name]
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return operator.forward(*arguments)[0]
    device_type = arguments[0].device.type
    dtype = None
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    if keep:
        return _Call.apply(operator, dtype, *arguments)
    return _run(operator, dtype, arguments)[1][0]
