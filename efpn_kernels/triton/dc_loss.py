"""DCLoss, Eq. 9-10, and its gradients in one pass.

With ``e = |pred - target|``, ``s = -1`` in the text form and 1 otherwise, ``a = sigmoid(s k (e - delta))``:
``l = scale weight (a e^2 + (1 - a) e)``, and the gradients of ``efpn_kernels.ops.kernels``.

Up to ``one_program`` elements of its setting one program does it all in one launch; beyond, each program writes its
partial sums and a second launch adds them in order.

In float32, forward with gradients, 12 bytes (16 with weight) an element, counted from the launches
(``benchmarks/kernels/triton_roofline.md``), with the time that an H200 needs for the bytes:

========  ======  ==========  =======
elements  bytes   operations  time
========  ======  ==========  =======
2 048     25 KB   0.09 M      latency
1e7       120 MB  420 M       27.9 us
========  ======  ==========  =======
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import settings
from .launch import accumulator, cdiv, chunks, launch, power_of_2
from .tile import gate_pair


@triton.jit
def dc_terms(pred, target, weight, k, delta, TEXT: tl.constexpr):
    """Loss and its derivatives with respect to pred, k and delta."""
    error = tl.abs(pred - target)
    s = -1.0 if TEXT else 1.0
    a, b = gate_pair(s * k * (error - delta))
    # a b comes first: it is next to nothing where error^2 may overflow.
    slope = s * (a * b) * error * (error - 1)
    grad_gate = k * slope
    loss = a * error * error + b * error
    grad_error = 2 * a * error + b + grad_gate
    sign = tl.where(pred > target, 1.0, tl.where(pred < target, -1.0, 0.0))
    return (
        weight * loss,
        weight * sign * grad_error,
        weight * (slope * (error - delta)),
        -weight * grad_gate,
    )


@triton.jit
def dc_loss_kernel(
    grad_loss_ptr,
    pred_ptr,
    target_ptr,
    weight_ptr,
    k_ptr,
    delta_ptr,
    loss_ptr,
    grad_pred_ptr,
    grad_k_ptr,
    grad_delta_ptr,
    partial_ptr,
    numel,
    tiles,
    scale: tl.float64,
    BLOCK: tl.constexpr,
    TEXT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BACKWARD: tl.constexpr,
    OF_SUM: tl.constexpr,
    REDUCE: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    FINAL: tl.constexpr,
):
    """A chunk of elements: the loss elementwise or summed, and with ``WITH_GRAD`` the gradients.

    ``BACKWARD`` multiplies by grad_loss, elementwise or with ``OF_SUM`` one for all, and stores no loss.
    ``FINAL``, for a single program, stores the sums themselves; otherwise they go to partial
    ``[programs, 3]``.
    """
    ACC: tl.constexpr = tl.float64 if pred_ptr.dtype.element_ty == tl.float64 else tl.float32
    program = tl.program_id(0)
    k = tl.load(k_ptr).to(ACC)
    delta = tl.load(delta_ptr).to(ACC)
    loss_sum = tl.zeros([BLOCK], ACC)
    k_sum = tl.zeros([BLOCK], ACC)
    delta_sum = tl.zeros([BLOCK], ACC)
    for tile in range(program * tiles, (program + 1) * tiles):
        at = tl.cast(tile, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < numel
        pred = tl.load(pred_ptr + at, inside, other=0.0).to(ACC)
        target = tl.load(target_ptr + at, inside, other=0.0).to(ACC)
        weight = tl.full([], scale, ACC)
        if OF_SUM:  # here, where it needs no register between the tiles
            weight *= tl.load(grad_loss_ptr).to(ACC)
        elif BACKWARD:
            weight = weight * tl.load(grad_loss_ptr + at, inside, other=0.0).to(ACC)
        if WEIGHTED:
            weight = weight * tl.load(weight_ptr + at, inside, other=0.0).to(ACC)
        loss, grad_pred, grad_k, grad_delta = dc_terms(pred, target, weight, k, delta, TEXT)
        if REDUCE:
            loss_sum += loss
        elif not BACKWARD:
            tl.store(loss_ptr + at, loss.to(loss_ptr.dtype.element_ty), inside)
        if WITH_GRAD:
            k_sum += grad_k
            delta_sum += grad_delta
            tl.store(grad_pred_ptr + at, grad_pred.to(grad_pred_ptr.dtype.element_ty), inside)
    # Elements beyond the end have e = 0, which makes loss, grad_k and grad_delta zero.
    if FINAL:
        if REDUCE:
            tl.store(loss_ptr, tl.sum(loss_sum, axis=0).to(loss_ptr.dtype.element_ty))
        if WITH_GRAD:
            tl.store(grad_k_ptr, tl.sum(k_sum, axis=0))
            tl.store(grad_delta_ptr, tl.sum(delta_sum, axis=0))
    elif REDUCE or WITH_GRAD:
        tl.store(partial_ptr + 3 * program, tl.sum(loss_sum, axis=0))
        tl.store(partial_ptr + 3 * program + 1, tl.sum(k_sum, axis=0))
        tl.store(partial_ptr + 3 * program + 2, tl.sum(delta_sum, axis=0))


@triton.jit
def dc_loss_sum_kernel(
    partial_ptr,
    loss_ptr,
    grad_k_ptr,
    grad_delta_ptr,
    programs,
    ROWS: tl.constexpr,
    REDUCE: tl.constexpr,
    WITH_GRAD: tl.constexpr,
):
    """The second stage: sums over partial ``[programs, 3]``."""
    row = tl.arange(0, ROWS)
    partial = partial_ptr + 3 * row
    inside = row < programs
    if REDUCE:
        loss = tl.sum(tl.load(partial, inside, other=0.0), axis=0)
        tl.store(loss_ptr, loss.to(loss_ptr.dtype.element_ty))
    if WITH_GRAD:
        tl.store(grad_k_ptr, tl.sum(tl.load(partial + 1, inside, other=0.0), axis=0))
        tl.store(grad_delta_ptr, tl.sum(tl.load(partial + 2, inside, other=0.0), axis=0))


def launch_dc_loss(
    grad_loss: Tensor | None,
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    k: Tensor,
    delta: Tensor,
    form: int,
    scale: float,
    loss: Tensor,
    gradients: tuple[Tensor, Tensor, Tensor],
    reduce: bool,
    with_grad: bool,
) -> None:
    """One or two launches into loss and gradients."""
    numel = pred.numel()
    limits = settings.find("dc_loss", pred)
    final = numel <= limits.one_program or not (reduce or with_grad)
    if numel <= limits.one_program:
        block, programs = power_of_2(numel, limits.block), 1
        tiles = cdiv(numel, block)
    else:
        block = limits.block
        tiles, programs = chunks(numel, block, limits.programs if reduce or with_grad else numel)
    partial = loss if final else pred.new_empty(programs, 3, dtype=accumulator(pred))
    launch(
        dc_loss_kernel,
        (programs,),
        grad_loss,
        pred,
        target,
        weight,
        k,
        delta,
        loss,
        *gradients,
        partial,
        numel,
        tiles,
        scale,
        BLOCK=block,
        TEXT=form == 1,
        WEIGHTED=weight is not None,
        BACKWARD=grad_loss is not None,
        OF_SUM=grad_loss is not None and grad_loss.dim() == 0,
        REDUCE=reduce,
        WITH_GRAD=with_grad,
        FINAL=final,
        num_warps=limits.warps,
    )
    if not final:
        launch(
            dc_loss_sum_kernel,
            (1,),
            partial,
            loss,
            *gradients[1:],
            programs,
            ROWS=power_of_2(programs, limits.programs),
            REDUCE=reduce,
            WITH_GRAD=with_grad,
            num_warps=limits.warps,
        )


def new_gradients(pred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the gradients of pred, k and delta."""
    dtype = accumulator(pred)
    return torch.empty_like(pred), pred.new_empty((), dtype=dtype), pred.new_empty((), dtype=dtype)


def on_device_of_pred(name: str, x: Tensor, pred: Tensor) -> None:
    """Raise unless ``x`` is where ``pred`` is."""
    if x.device != pred.device:
        raise ValueError(
            f"dc_loss: {name}: expected the device of pred ({pred.device}), got {x.device}"
        )


def like_pred(name: str, x: Tensor, pred: Tensor) -> None:
    """Raise unless ``x`` has the device, the dtype and the shape of ``pred``."""
    on_device_of_pred(name, x, pred)
    if x.dtype != pred.dtype:
        raise TypeError(
            f"dc_loss: {name}: expected the dtype of pred ({pred.dtype}), got {x.dtype}"
        )
    if x.shape != pred.shape:
        expected, got = tuple(pred.shape), tuple(x.shape)
        raise ValueError(f"dc_loss: {name}: expected the shape of pred {expected}, got {got}")


def normalised(
    pred: Tensor, target: Tensor, weight: Tensor | None, k: Tensor, delta: Tensor, form: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tensors of any strides, contiguous; DCLoss is its own operator, so here they are checked."""
    like_pred("target", target, pred)
    if weight is not None:
        like_pred("weight", weight, pred)
    for name, x in (("k", k), ("delta", delta)):
        on_device_of_pred(name, x, pred)
        if x.numel() != 1:
            raise ValueError(f"dc_loss: {name}: expected one element, got shape {tuple(x.shape)}")
    if form not in (0, 1):
        raise ValueError(f"dc_loss: form: expected 0 (equation) or 1 (text), got {form}")
    weight = weight if weight is None else weight.contiguous()
    return pred.contiguous(), target.contiguous(), weight


def dc_loss(
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
    """The sum of the loss and its gradients, or the loss elementwise (then without gradients)."""
    pred, target, weight = normalised(pred, target, weight, k, delta, form)
    with_grad = with_grad and reduce
    dtype = accumulator(pred)
    loss = pred.new_empty((), dtype=dtype) if reduce else torch.empty_like(pred)
    if with_grad:
        gradients = new_gradients(pred)
    else:
        gradients = tuple(pred.new_empty(0, dtype=t) for t in (pred.dtype, dtype, dtype))
    if reduce or pred.numel():
        launch_dc_loss(
            None,
            pred,
            target,
            weight,
            k,
            delta,
            form,
            scale,
            loss,
            gradients,
            reduce,
            with_grad,
        )
    return loss, *gradients


def dc_loss_backward(
    grad_loss: Tensor,
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    k: Tensor,
    delta: Tensor,
    form: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of pred, k and delta for a grad_loss elementwise or of the sum."""
    pred, target, weight = normalised(pred, target, weight, k, delta, form)
    if grad_loss.dim():
        like_pred("grad_loss", grad_loss, pred)
        grad_loss = grad_loss.contiguous()
    else:
        on_device_of_pred("grad_loss", grad_loss, pred)
    gradients = new_gradients(pred)
    launch_dc_loss(
        grad_loss,
        pred,
        target,
        weight,
        k,
        delta,
        form,
        scale,
        grad_loss,
        gradients,
        False,
        True,
    )
    return gradients
