"""The one ``autograd.Function`` that the operators on maps are called through.

It is the same in eager mode, under a compiler, and where the dispatcher's operator is called with tensors that
want a gradient, as in an exported program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import TransformType, is_batchedtensor, is_legacy_batchedtensor
from torch.autograd import forward_ad

from .kernels import LIBRARIES, accumulate_dtype
from .layout import is_channels_last
from .registration import ALL_AUTOCAST, WITHOUT_GRADIENT, is_cast

WAY_OUT = 'run it through efpn_kernels.use_backend("reference")'


def run(op: torch._ops.OpOverload, *arguments: Any) -> Any:
    """The operator's kernel, past autograd and autocast, which have had their turn."""
    if torch.compiler.is_compiling():
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        if not torch._C._is_any_autocast_enabled():
            return op(*arguments)
        with torch._C._ExcludeDispatchKeyGuard(ALL_AUTOCAST):
            return op(*arguments)


class Operator(NamedTuple):
    """``namespace::name`` of tensors, the first of which is the low-level map ``p_low``.

    Its schema is ``(<tensors>, bool channels_last=False, bool save=False) -> (Tensor out, Tensor[] state)``,
    with ``bool reduced=False`` at the end where its precision can be reduced.
    """

    saved: Callable[[Tensor, Sequence[Tensor | None]], Sequence[Tensor | None]]
    """What backward needs of the output and the tensors, beside the state."""
    gradients: Callable[..., Sequence[Tensor | None]]
    """``(namespace, grad_out, saved, state, channels_last, grad_dtype)`` to one gradient a tensor.

    With ``reduced`` at the end where the precision can be reduced.
    """
    reducible: bool = False
    """Whether its precision can be reduced."""


OPERATORS: dict[str, Operator] = {}


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        namespace: str,
        name: str,
        channels_last: bool,
        reduced: tuple[bool, ...],
        dtype: torch.dtype | None,
        *tensors: Tensor | None,
    ) -> Tensor:
        ctx.grad_dtype = None
        if dtype is not None:
            cast = autocast(tensors, dtype)
            # Parameters that autocast casts get their gradients in the dtype that they are summed in.
            if any(x is not y for x, y in zip(tensors[2:], cast[2:], strict=True)):
                ctx.grad_dtype = accumulate_dtype(cast[0].dtype)
            tensors = cast
        out, state = run(
            getattr(getattr(torch.ops, namespace), name).default,
            *tensors,
            channels_last,
            True,
            *reduced,
        )
        ctx.set_materialize_grads(False)
        ctx.namespace, ctx.name, ctx.channels_last = namespace, name, channels_last
        ctx.reduced = reduced
        saved = OPERATORS[name].saved(out, tensors)
        ctx.count = len(saved)
        ctx.save_for_backward(*saved, *state)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_out is None:
            return (None,) * len(ctx.needs_input_grad)
        refuse_batched(ctx.name, grad_out)
        tensors = ctx.saved_tensors
        saved, state = tensors[: ctx.count], tensors[ctx.count :]
        grads = OPERATORS[ctx.name].gradients(
            ctx.namespace,
            grad_out,
            saved,
            list(state),
            ctx.channels_last,
            ctx.grad_dtype,
            *ctx.reduced,
        )
        if torch.is_grad_enabled():  # create_graph=True
            grads = _OnceDifferentiable.apply(ctx.name, len(grads), *grads, grad_out, *saved)
        return None, None, None, None, None, *grads


class _OnceDifferentiable(torch.autograd.Function):
    """Hands gradients on, and says no to whoever differentiates them again."""

    @staticmethod
    def forward(ctx: Any, name: str, count: int, *tensors: Tensor | None) -> Any:
        ctx.name = name
        return tuple(None if t is None else t.view_as(t) for t in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(f"{ctx.name}: double backward is not supported; {WAY_OUT}")


def call(namespace: str, name: str, *tensors: Tensor | None, reduced: bool = False) -> Tensor:
    """The output of ``namespace::name`` of tensors that have been checked, differentiable.

    With ``reduced`` precision, where the operator knows of it.
    """
    refuse_transforms(name, tensors)
    channels_last = is_channels_last(tensors[0])
    dtype = autocast_dtype(tensors)
    last = (reduced,) if OPERATORS[name].reducible else ()
    # An exported program is for inference: one node, without a state that nobody reads.
    if wants_grad(tensors) and not torch.compiler.is_exporting():
        return _Call.apply(namespace, name, channels_last, last, dtype, *tensors)
    if dtype is not None:
        tensors = autocast(tensors, dtype)
    op = getattr(getattr(torch.ops, namespace), name).default
    return run(op, *tensors, channels_last, False, *last)[0]


def differentiable(namespace: str, name: str) -> None:
    """Let ``namespace::name``, called in the dispatcher, have the gradient of :func:`call`.

    With ``save=True`` the caller takes the state and differentiates himself: then a tensor that wants a gradient
    is an error.
    """
    op = getattr(getattr(torch.ops, namespace), name).default
    total = len(op._schema.arguments)
    count = total - 2 - OPERATORS[name].reducible

    def kernel(*args: Any) -> tuple[Tensor, list[Tensor]]:
        tensors = args[:count]
        channels_last, save, *reduced = (*args[count:], *(False,) * (total - len(args)))
        # An export records the operator alone.
        if wants_grad(tensors) and not torch.compiler.is_exporting():
            if save:
                raise RuntimeError(f"{namespace}::{name}: save: expected False; {WITHOUT_GRADIENT}")
            out = _Call.apply(namespace, name, channels_last, tuple(reduced), None, *tensors)
            return out, []
        with torch._C._AutoDispatchBelowAutograd():
            return op(*tensors, channels_last, save, *reduced)

    LIBRARIES[namespace].impl(name, kernel, "Autograd")


def wants_grad(tensors: Sequence[Tensor | None]) -> bool:
    """Whether a call of these tensors will be differentiated."""
    if torch.is_grad_enabled():
        for t in tensors:  # any() of a generator takes twice as long
            if t is not None and t.requires_grad:
                return True
    return False


def refuse_batched(operator: str, grad_out: Tensor) -> None:
    """Raise for a gradient that is a batch of them (``is_grads_batched``, ``jacobian(vectorize=True)``)."""
    if torch.compiler.is_compiling():
        return
    if is_legacy_batchedtensor(grad_out) or is_batchedtensor(grad_out):
        raise RuntimeError(f"{operator}: batched gradients are not supported; {WAY_OUT}")


def autocast_dtype(tensors: Sequence[Tensor | None]) -> torch.dtype | None:
    """What autocast casts the tensors of a call to; None where it is off."""
    device_type = tensors[0].device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None


def autocast(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    """The tensors in ``dtype``, float64 aside; those that have another one by one launch for all."""
    out = list(tensors)
    others = [i for i, x in enumerate(out) if x is not None and is_cast(x) and x.dtype != dtype]
    if torch.compiler.is_compiling():
        for i in others:
            out[i] = out[i].to(dtype)
    elif others:
        sources = [out[i] for i in others]
        for i, x in zip(others, sources, strict=True):
            out[i] = torch.empty_like(x, dtype=dtype)
        torch._foreach_copy_([out[i] for i in others], sources)
    return out


def refuse_transforms(operator: str, tensors: Sequence[Tensor | None]) -> None:
    """Raise where a transform looks at the call that the operators do not know.

    Forward-mode differentiation would go on with zero; ``torch.func`` would loop, or stop with a sentence
    about itself; a trace or an ONNX file would keep a node that no other program has.
    """
    if forward_ad._current_level >= 0 and any(
        t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors
    ):
        raise RuntimeError(
            f"{operator}: forward-mode differentiation (jvp) is not supported; {WAY_OUT}"
        )
    if torch._C._are_functorch_transforms_active():
        transform = torch._C._functorch.peek_interpreter_stack().key()
        if transform != TransformType.Functionalize:
            raise RuntimeError(
                f"{operator}: the transforms of torch.func (vmap, grad, jacrev and others, batched "
                f"gradients too) are not supported; {WAY_OUT}"
            )
    if torch._C._get_tracing_state() is not None:
        raise RuntimeError(
            f"{operator}: torch.jit.trace is not supported; use torch.export, or {WAY_OUT}"
        )
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        raise RuntimeError(f"{operator}: ONNX has no such operator; {WAY_OUT}")
