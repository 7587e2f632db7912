"""FBSM, the low gate of Eq. 6: the context's share of ``low_conv``, one vector per border class.

``V[tap, d] = sum_c weight[d, c, tap] context[c]``, and a class sums the taps that fall inside of the
image. Bytes and times stand in ``low_gate``; these are small GEMVs over the weight, bound by latency.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import settings
from .launch import cdiv, launch, power_of_2

CLASSES = tl.constexpr(16)
"""The nine classes, padded to a power of two."""


@triton.jit
def tap_in_class(tap, H, W):
    """Whether a tap falls inside of the image, for each class ``3 cy + cx``; false beyond nine."""
    k = tl.arange(0, CLASSES)
    return axis_inside(tap // 3, k // 3, H) & axis_inside(tap % 3, k % 3, W) & (k < 9)


@triton.jit
def axis_inside(t, border, size):
    inside_first = (t > 0) & ((t < 2) | (size > 1))
    return ((border == 0) & inside_first) | (border == 1) | ((border == 2) & (t < 2))


@triton.jit
def border_bias_kernel(
    context_ptr,
    weight_ptr,
    bias_ptr,
    border_ptr,
    C,
    D,
    H,
    W,
    weight_c,
    weight_tap,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """border ``[N, 9, D]``: bias and the taps inside, for each class."""
    ACC: tl.constexpr = border_ptr.dtype.element_ty
    n = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, CLASSES)
    bias = tl.load(bias_ptr + d, d < D, other=0.0).to(ACC)
    border = tl.zeros([CLASSES, OUTPUTS], ACC) + bias[None, :]
    for tap in tl.static_range(9):
        total = tl.zeros([OUTPUTS, CHANNELS], ACC)
        for c0 in range(0, C, CHANNELS):
            c = c0 + tl.arange(0, CHANNELS)
            context = tl.load(context_ptr + n * C + c, c < C, other=0.0)
            inside = (d < D)[:, None] & (c < C)[None, :]
            pointers = weight_ptr + d[:, None] * (9 * C) + c[None, :] * weight_c + tap * weight_tap
            total += tl.load(pointers, inside, other=0.0).to(ACC) * context[None, :]
        value = tl.sum(total, axis=1)
        border += tl.where(tap_in_class(tap, H, W)[:, None], value[None, :], 0.0)
    pointers = border_ptr + n * 9 * D + (k[:, None] * D + d[None, :])
    tl.store(pointers, border, (k < 9)[:, None] & (d < D)[None, :])


def tap_strides(weight: Tensor) -> tuple[int, int]:
    """Strides of a channel and of a tap in weight ``[D, C, 3, 3]``."""
    return (9, 1) if weight.is_contiguous() else (1, weight.shape[1])


def border_bias(context: Tensor, weight: Tensor, bias: Tensor, H: int, W: int) -> Tensor:
    """border ``[N, 3, 3, D]`` of context ``[N, C]`` through weight ``[D, C, 3, 3]``."""
    N, C = context.shape
    D = weight.shape[0]
    border = context.new_empty(N, 3, 3, D)
    if N:
        limits = settings.find("border_bias", weight)
        launch(
            border_bias_kernel,
            (N, cdiv(D, limits.rows)),
            context,
            weight,
            bias,
            border,
            C,
            D,
            H,
            W,
            *tap_strides(weight),
            OUTPUTS=limits.rows,
            CHANNELS=power_of_2(C, limits.columns),
            num_warps=limits.warps,
        )
    return border


@triton.jit
def tap_grad(grad_border_ptr, d, D, tap, H, W):
    """``grad V[tap, d]``: the sum of an image's grad_border over the classes that contain the tap."""
    k = tl.arange(0, CLASSES)
    inside = tap_in_class(tap, H, W)[:, None] & (d < D)[None, :]
    grad = tl.load(grad_border_ptr + (k[:, None] * D + d[None, :]), inside, other=0.0)
    return tl.sum(grad, axis=0)


@triton.jit
def border_context_bwd_kernel(
    grad_border_ptr,
    weight_ptr,
    grad_context_ptr,
    C,
    D,
    H,
    W,
    weight_c,
    weight_tap,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """grad_context ``[N, C] = sum over taps and d of grad V[tap, d] weight[d, c, tap]``."""
    ACC: tl.constexpr = grad_context_ptr.dtype.element_ty
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    grad_border = grad_border_ptr + n * 9 * D
    total = tl.zeros([OUTPUTS, CHANNELS], ACC)
    for d0 in range(0, D, OUTPUTS):
        d = d0 + tl.arange(0, OUTPUTS)
        inside = (d < D)[:, None] & (c < C)[None, :]
        for tap in tl.static_range(9):
            grad = tap_grad(grad_border, d, D, tap, H, W)
            pointers = weight_ptr + d[:, None] * (9 * C) + c[None, :] * weight_c + tap * weight_tap
            total += tl.load(pointers, inside, other=0.0).to(ACC) * grad[:, None]
    tl.store(grad_context_ptr + n * C + c, tl.sum(total, axis=0), c < C)


@triton.jit
def border_weight_bwd_kernel(
    grad_border_ptr,
    context_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    N,
    C,
    D,
    H,
    W,
    weight_c,
    weight_tap,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """grad_weight ``[D, C, 3, 3] = sum_n grad V[n, tap, d] context[n, c]``, and grad_bias ``[D]``."""
    ACC: tl.constexpr = context_ptr.dtype.element_ty
    d = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    tap = tl.program_id(2)
    k = tl.arange(0, CLASSES)
    total = tl.zeros([OUTPUTS, CHANNELS], ACC)
    grad_bias = tl.zeros([OUTPUTS], ACC)
    for image in range(0, N):
        n = tl.cast(image, tl.int64)
        grad_border = grad_border_ptr + n * 9 * D
        context = tl.load(context_ptr + n * C + c, c < C, other=0.0)
        total += tap_grad(grad_border, d, D, tap, H, W)[:, None] * context[None, :]
        inside = (k < 9)[:, None] & (d < D)[None, :]
        pointers = grad_border + (k[:, None] * D + d[None, :])
        grad_bias += tl.sum(tl.load(pointers, inside, other=0.0), axis=0)
    inside = (d < D)[:, None] & (c < C)[None, :]
    pointers = grad_weight_ptr + d[:, None] * (9 * C) + c[None, :] * weight_c + tap * weight_tap
    tl.store(pointers, total, inside)
    first = (tl.program_id(1) == 0) & (tap == 0)
    tl.store(grad_bias_ptr + d, grad_bias, (d < D) & first)


def border_bias_backward(
    grad_border: Tensor, context: Tensor, weight: Tensor, H: int, W: int
) -> tuple[Tensor, Tensor, Tensor]:
    """grad_context ``[N, C]``, grad_weight (the strides of weight), grad_bias ``[D]``."""
    N, C = context.shape
    D = weight.shape[0]
    grad_context = torch.empty_like(context)
    grad_weight = torch.empty_like(weight, dtype=context.dtype)
    grad_bias = context.new_empty(D)
    strides = tap_strides(weight)
    if N:
        limits = settings.find("border_context_bwd", weight)
        launch(
            border_context_bwd_kernel,
            (N, cdiv(C, limits.columns)),
            grad_border,
            weight,
            grad_context,
            C,
            D,
            H,
            W,
            *strides,
            OUTPUTS=power_of_2(D, limits.rows),
            CHANNELS=limits.columns,
            num_warps=limits.warps,
        )
    limits = settings.find("border_weight_bwd", weight)
    channels = power_of_2(C, limits.columns)
    launch(
        border_weight_bwd_kernel,
        (cdiv(D, limits.rows), cdiv(C, channels), 9),
        grad_border,
        context,
        grad_weight,
        grad_bias,
        N,
        C,
        D,
        H,
        W,
        *strides,
        OUTPUTS=limits.rows,
        CHANNELS=channels,
        num_warps=limits.warps,
    )
    return grad_context, grad_weight, grad_bias
