"""``dc_loss``: the gradient, the fake and autocast of the kernels of DCLoss, Eq. 9-10.

With ``reduce`` the forward kernel computes every gradient in its one pass over the elements. The first
backward scales them in place and hands them out; another one through a retained graph computes them anew.
Without ``reduce`` backward is a second pass.

Kept for backward: ``pred``, ``target``, ``weight``, ``k`` and ``delta`` themselves. A reduced loss looks at
them in a second backward only (for half precision: in every one that is not of the loss alone), so they may
change in place before the first; then, as ever without ``reduce``, autograd complains.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from . import autograd, registration
from .autograd import WAY_OUT
from .kernels import LIBRARIES, accumulate_dtype


class DCLossForm(IntEnum):
    """The direction of the gate, as the operators' schema has it: a new form is a new number."""

    EQUATION = 0
    TEXT = 1


def _fake(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    k: Tensor,
    delta: Tensor,
    form: int,
    reduce: bool,
    scale: float,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    acc = accumulate_dtype(pred.dtype)
    with_grad = with_grad and reduce
    shape = () if with_grad else (0,)
    return (
        pred.new_empty((), dtype=acc) if reduce else pred.new_empty(pred.shape),
        pred.new_empty(pred.shape if with_grad else (0,)),
        pred.new_empty(shape, dtype=acc),
        pred.new_empty(shape, dtype=acc),
    )


def _fake_backward(grad_loss: Tensor, pred: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    acc = accumulate_dtype(pred.dtype)
    return pred.new_empty(pred.shape), pred.new_empty((), dtype=acc), pred.new_empty((), dtype=acc)


def _is_one(x: Tensor) -> bool:
    """Whether a gradient is 1, where that is known without waiting for a GPU: a loss is mostly the root.

    A subclass, as a fake tensor is one, may not know its value.
    """
    return type(x) is Tensor and x.is_cpu and x.item() == 1


def _like(grad: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return grad if grad.dtype == dtype and grad.shape == shape else grad.to(dtype).reshape(shape)


class _DCLoss(torch.autograd.Function):
    """The gradient: in eager mode, in compiled graphs and in exported programs.

    In two-stage detectors the loss has hundreds of elements and the call is all of its time. The floor
    of this path, a ``Function`` of three leaves that computes nothing, is measured beside it: "autograd
    alone" in the benchmarks' reports. Built-in nodes instead, a ``dot`` of the flattened leaves with
    their gradients, were slower than the ``Function`` when tried.
    """

    @staticmethod
    def forward(ctx: Any, namespace: str, *arguments: Any) -> Tensor:
        operation = getattr(torch.ops, namespace).dc_loss.default
        compiling = torch.compiler.is_compiling()
        if compiling:
            loss, *gradients = operation(*arguments)
        else:  # not past autocast, which casts here
            with torch._C._AutoDispatchBelowAutograd():
                loss, *gradients = operation(*arguments)
        _, _, _, k, delta, form, reduce, scale, _ = arguments
        ctx.set_materialize_grads(False)
        ctx.options = namespace, form, reduce, scale
        ctx.like = k.shape, k.dtype, delta.shape, delta.dtype
        if compiling and reduce:
            ctx.save_for_backward(*gradients)
        else:
            ctx.save_for_backward(*arguments[:5])
            ctx.gradients = gradients if reduce else None
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_loss is None:
            return (None,) * 10
        autograd.refuse_batched("dc_loss", grad_loss)
        if torch.compiler.is_compiling():
            gradients = _compiled(ctx, grad_loss)
        elif torch.is_grad_enabled():  # create_graph=True: someone will differentiate again
            raise RuntimeError(f"dc_loss: double backward is not supported; {WAY_OUT}")
        else:
            gradients = _first(ctx, grad_loss) or _computed(ctx, grad_loss)
        grad_pred, grad_k, grad_delta = gradients
        grad_target = -grad_pred if ctx.needs_input_grad[2] else None
        k_shape, k_dtype, delta_shape, delta_dtype = ctx.like
        grad_k, grad_delta = (
            _like(grad_k, k_shape, k_dtype),
            _like(grad_delta, delta_shape, delta_dtype),
        )
        return None, grad_pred, grad_target, None, grad_k, grad_delta, None, None, None, None


def _first(ctx: Any, grad_loss: Tensor) -> list[Tensor] | None:
    """The gradients of forward, scaled, once: they are the receiver's then. Halves are not rounded twice."""
    gradients, ctx.gradients = ctx.gradients, None
    if gradients is None or _is_one(grad_loss):
        return gradients
    if gradients[0].dtype != grad_loss.dtype:
        return None
    return [g.mul_(grad_loss) for g in gradients]


def _computed(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, ...]:
    namespace, form, _, scale = ctx.options
    backward = getattr(torch.ops, namespace).dc_loss_backward.default
    with torch._C._AutoDispatchBelowAutograd():
        return backward(grad_loss, *ctx.saved_tensors, form, scale)


def _compiled(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, ...]:
    namespace, form, reduce, scale = ctx.options
    if reduce:
        return tuple((g.to(grad_loss.dtype) * grad_loss).to(g.dtype) for g in ctx.saved_tensors)
    backward = getattr(torch.ops, namespace).dc_loss_backward.default
    return backward(grad_loss, *ctx.saved_tensors, form, scale)


def dc_loss(namespace: str, *arguments: Any) -> Tensor:
    """The loss of ``namespace::dc_loss``: summed in the dtype of accumulation, or elementwise.

    The last argument, ``with_grad``, says whether it will be differentiated.
    """
    autograd.refuse_transforms("dc_loss", arguments[:5])
    if torch.compiler.is_exporting() or not arguments[-1]:  # the operator alone, for inference
        op = getattr(torch.ops, namespace).dc_loss.default
        return autograd.run(op, *arguments[:-1], False)[0]
    return _DCLoss.apply(namespace, *arguments)


def _differentiable(namespace: str) -> None:
    """Let ``namespace::dc_loss``, called in the dispatcher, have the gradient of :func:`dc_loss`.

    With ``with_grad=True`` it hands its own gradients out: then a tensor that wants one is an error.
    """
    operation = getattr(torch.ops, namespace).dc_loss.default

    def kernel(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tensors, with_grad = arguments[:5], arguments[8]
        if autograd.wants_grad(tensors) and not torch.compiler.is_exporting():
            if with_grad:
                raise RuntimeError(
                    f"{namespace}::dc_loss: with_grad: expected False; "
                    f"{registration.WITHOUT_GRADIENT}"
                )
            loss = _DCLoss.apply(namespace, *arguments[:-1], True)
            acc = accumulate_dtype(arguments[0].dtype)
            return loss, *(loss.new_empty(0, dtype=d) for d in (arguments[0].dtype, acc, acc))
        with torch._C._AutoDispatchBelowAutograd():
            return operation(*arguments)

    LIBRARIES[namespace].impl("dc_loss", kernel, "Autograd")


def register(namespace: str) -> None:
    """Attach fake, gradient and autocast to the kernels of DCLoss in ``namespace``."""
    registration.register_fake(namespace, "dc_loss", _fake)
    registration.register_fake(namespace, "dc_loss_backward", _fake_backward)
    _differentiable(namespace)
    registration.refuse_gradients(namespace, "dc_loss_backward")
    # Losses run in float32, as PyTorch's own do; k and delta are scalars of their own dtype.
    registration.autocast(namespace, "dc_loss", lambda device_type: torch.float32, fixed=(3, 4))
