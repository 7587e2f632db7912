"""``dc_loss``: the gradient, the fake and autocast of the kernels of DCLoss, Eq. 9-10.

With ``reduce`` the forward kernel has computed every gradient in its one pass over the elements, and
backward only scales. Without, backward is a second pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from . import registration
from .kernels import LIBRARIES, accumulate_dtype


def _fake(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    k: Tensor,
    delta: Tensor,
    text_form: bool,
    reduce: bool,
    scale: float,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    acc = accumulate_dtype(pred.dtype)
    with_grad = with_grad and reduce
    shape = () if with_grad else (0,)
    return (
        pred.new_empty(() if reduce else pred.shape),
        pred.new_empty(pred.shape if with_grad else (0,)),
        pred.new_empty(shape, dtype=acc),
        pred.new_empty(shape, dtype=acc),
    )


def _fake_backward(
    grad_loss: Tensor,
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    k: Tensor,
    delta: Tensor,
    text_form: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    acc = accumulate_dtype(pred.dtype)
    return pred.new_empty(pred.shape), pred.new_empty((), dtype=acc), pred.new_empty((), dtype=acc)


def _setup_context(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...], hand_out: bool = False
) -> None:
    pred, target, weight, k, delta, text_form, reduce, scale, with_grad = inputs
    ctx.set_materialize_grads(False)
    ctx.reduce, ctx.with_grad = reduce, with_grad
    ctx.text_form, ctx.scale = text_form, scale
    ctx.k_like, ctx.delta_like = (k.shape, k.dtype), (delta.shape, delta.dtype)
    ctx.hand_out = hand_out
    elements = () if reduce and not hand_out else (pred, target, weight, k, delta)
    gradients = output[1:] if reduce and with_grad else ()
    ctx.save_for_backward(*elements, *gradients)


def _like(grad: Tensor, like: tuple[torch.Size, torch.dtype]) -> Tensor:
    shape, dtype = like
    return grad if grad.dtype == dtype and grad.shape == shape else grad.to(dtype).reshape(shape)


def _gradients(kernels: Any, ctx: Any, grad_loss: Tensor) -> tuple[Tensor, ...]:
    saved = ctx.saved_tensors
    if ctx.reduce and not ctx.hand_out:
        return tuple(g * grad_loss for g in saved)
    elements = saved[:5]
    if ctx.reduce:
        # A mean or a sum is mostly the root of the graph, where grad_loss is 1. On a CPU reading it
        # costs nothing and saves a pass over memory: the first backward hands its tensors out as
        # they are (as .data, since the receiver may accumulate into them), later ones recompute.
        if (
            not getattr(ctx, "handed_out", False)
            and not is_fake(grad_loss)
            and grad_loss.item() == 1
        ):
            ctx.handed_out = True
            return tuple(g.data for g in saved[5:])
        grad_loss = grad_loss.expand_as(elements[0])
    return kernels.dc_loss_backward(grad_loss.contiguous(), *elements, ctx.text_form, ctx.scale)


def _backward(kernels: Any, ctx: Any, grad_loss: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_loss is None:
        return (None,) * 9
    if ctx.reduce and not ctx.with_grad:
        raise RuntimeError(
            "dc_loss: with_grad: expected True for a loss to differentiate, got False"
        )
    if torch.is_grad_enabled():  # create_graph=True: someone will differentiate again
        raise RuntimeError(
            "dc_loss: double backward is not supported; "
            'run it through efpn_kernels.use_backend("reference")'
        )
    grad_pred, grad_k, grad_delta = _gradients(kernels, ctx, grad_loss)
    grad_target = -grad_pred if ctx.needs_input_grad[-8] else None
    grad_k, grad_delta = _like(grad_k, ctx.k_like), _like(grad_delta, ctx.delta_like)
    return grad_pred, grad_target, None, grad_k, grad_delta, None, None, None, None


class _DCLoss(torch.autograd.Function):
    """The operator's gradient without the generic Python of ``torch.library`` around it.

    In two-stage detectors the loss has hundreds of elements and the call is all of its time. The floor
    of this path, a ``Function`` of three leaves that computes nothing, is measured beside it: "autograd
    alone" in the benchmarks' reports. Built-in nodes instead, a ``dot`` of the flattened leaves with
    their gradients, were slower than the ``Function`` when tried.
    """

    @staticmethod
    def forward(ctx: Any, namespace: str, *arguments: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            output = getattr(torch.ops, namespace).dc_loss.default(*arguments)
        _setup_context(ctx, arguments, output, hand_out=arguments[0].device.type == "cpu")
        ctx.namespace = namespace
        return output[0]

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_backward(getattr(torch.ops, ctx.namespace), ctx, grad_loss)


def dc_loss(namespace: str, *arguments: Any) -> Tensor:
    """Call ``namespace::dc_loss`` for its loss, by the shortest way that differentiates."""
    device_type = arguments[0].device.type
    if (
        torch.compiler.is_compiling()
        or torch.is_autocast_enabled(device_type)
        or torch._C._are_functorch_transforms_active()
    ):
        return getattr(torch.ops, namespace).dc_loss.default(*arguments)[0]
    return _DCLoss.apply(namespace, *arguments)


def register(namespace: str) -> None:
    """Attach fake, autograd and autocast to the kernels of DCLoss in ``namespace``."""
    library = LIBRARIES[namespace]
    torch.library.register_fake(f"{namespace}::dc_loss", _fake, lib=library)
    torch.library.register_fake(f"{namespace}::dc_loss_backward", _fake_backward, lib=library)
    kernels = getattr(torch.ops, namespace)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        _setup_context(ctx, inputs, output)

    def backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        return _backward(kernels, ctx, grad_loss)

    torch.library.register_autograd(
        f"{namespace}::dc_loss", backward, setup_context=setup_context, lib=library
    )
    # Losses run in float32, as PyTorch's own do; k and delta are scalars of their own dtype.
    registration.autocast(namespace, "dc_loss", lambda device_type: torch.float32, fixed=(3, 4))
