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
from torch._subclasses.fake_tensor import is_fake

from . import operator
from .kernels import accumulate_dtype

OTHER_WAY = 'run it through efpn_kernels.use_backend("reference")'


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
    """Whether a gradient is 1, where that is known without waiting for a GPU: a loss is mostly the root."""
    return x.device.type == "cpu" and not is_fake(x) and x.item() == 1


def _like(grad: Tensor, like: tuple[torch.Size, torch.dtype]) -> Tensor:
    shape, dtype = like
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
        else:
            with torch._C._AutoDispatchBelowAutograd():
                loss, *gradients = operation(*arguments)
        _, _, _, k, delta, form, reduce, scale, with_grad = arguments
        ctx.set_materialize_grads(False)
        ctx.namespace, ctx.form, ctx.scale = namespace, form, scale
        ctx.reduce, ctx.with_grad = reduce, with_grad
        ctx.k_like, ctx.delta_like = (k.shape, k.dtype), (delta.shape, delta.dtype)
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
        if torch.compiler.is_compiling():
            gradients = _compiled(ctx, grad_loss)
        elif torch.is_grad_enabled():  # create_graph=True: someone will differentiate again
            raise RuntimeError(f"dc_loss: double backward is not supported; {OTHER_WAY}")
        else:
            gradients = _first(ctx, grad_loss) or _computed(ctx, grad_loss)
        grad_pred, grad_k, grad_delta = gradients
        grad_target = -grad_pred if ctx.needs_input_grad[2] else None
        grad_k, grad_delta = _like(grad_k, ctx.k_like), _like(grad_delta, ctx.delta_like)
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
    backward = getattr(torch.ops, ctx.namespace).dc_loss_backward.default
    with torch._C._AutoDispatchBelowAutograd():
        return backward(grad_loss, *ctx.saved_tensors, ctx.form, ctx.scale)


def _compiled(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, ...]:
    if ctx.reduce:
        return tuple((g.to(grad_loss.dtype) * grad_loss).to(g.dtype) for g in ctx.saved_tensors)
    backward = getattr(torch.ops, ctx.namespace).dc_loss_backward.default
    return backward(grad_loss, *ctx.saved_tensors, ctx.form, ctx.scale)


def dc_loss(namespace: str, *arguments: Any) -> Tensor:
    """The loss of ``namespace::dc_loss``: summed in the dtype of accumulation, or elementwise."""
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        if any(isinstance(a, Tensor) and a.requires_grad for a in arguments):
            raise RuntimeError(
                f"dc_loss: torch.func (functorch) has no gradient of it; {OTHER_WAY}"
            )
        return getattr(torch.ops, namespace).dc_loss.default(*arguments)[0]
    return _DCLoss.apply(namespace, *arguments)


def _refuse_gradient(namespace: str, name: str, way_out: str) -> None:
    """Called in the dispatcher, an operator has no gradient: say so instead of losing it."""
    operation = getattr(getattr(torch.ops, namespace), name).default

    def kernel(*arguments: Any) -> Any:
        if torch.is_grad_enabled():
            for argument, a in zip(operation._schema.arguments, arguments, strict=False):
                if isinstance(a, Tensor) and a.requires_grad:
                    raise RuntimeError(
                        f"{namespace}::{name}: {argument.name}: expected requires_grad=False or "
                        f"torch.no_grad(), since the operator alone has no gradient; {way_out}"
                    )
        with torch._C._AutoDispatchBelowAutograd():
            return operation(*arguments)

    operator.LIBRARIES[namespace].impl(name, kernel, "Autograd")


def register(namespace: str) -> None:
    """Attach fake and autocast to the kernels of DCLoss in ``namespace``."""
    library = operator.LIBRARIES[namespace]
    torch.library.register_fake(f"{namespace}::dc_loss", _fake, lib=library)
    torch.library.register_fake(f"{namespace}::dc_loss_backward", _fake_backward, lib=library)
    _refuse_gradient(namespace, "dc_loss", "call efpn_kernels.functional.dc_loss")
    _refuse_gradient(namespace, "dc_loss_backward", OTHER_WAY)
    # Losses run in float32, as PyTorch's own do; k and delta are scalars of their own dtype.
    operator.autocast(namespace, "dc_loss", lambda device_type: torch.float32, fixed=(3, 4))
