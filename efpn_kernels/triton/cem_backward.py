"""CEM, the backward of the pooled context; bytes and times stand in ``context``."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import settings
from .launch import cdiv, is_channels_last, launch, power_of_2
from .tile import relu_gradient


@triton.jit
def scatter_pooled_kernel(
    grad_context_ptr,
    context_ptr,
    index_ptr,
    weight_ptr,
    grad_p_high_ptr,
    HW,
    C,
    D,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Adds ``(gz weight)[n, c]`` to the pixel of grad_p_high that was the maximum."""
    ACC: tl.constexpr = context_ptr.dtype.element_ty
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros([OUTPUTS, CHANNELS], ACC)
    for d0 in range(0, D, OUTPUTS):
        d = d0 + tl.arange(0, OUTPUTS)
        context = tl.load(context_ptr + n * D + d, d < D, other=0.0)
        grad_z = tl.load(grad_context_ptr + n * D + d, d < D, other=0.0)
        grad_z = relu_gradient(context, grad_z)
        inside = (d < D)[:, None] & (c < C)[None, :]
        weight = tl.load(weight_ptr + d[:, None] * C + c[None, :], inside, other=0.0).to(ACC)
        total += weight * grad_z[:, None]
    index = tl.load(index_ptr + n * C + c, c < C, other=0)
    offset = (n * HW + index) * C + c if CHANNELS_LAST else (n * C + c) * HW + index
    merged = tl.load(grad_p_high_ptr + offset, c < C, other=0.0).to(ACC) + tl.sum(total, axis=0)
    tl.store(grad_p_high_ptr + offset, merged.to(grad_p_high_ptr.dtype.element_ty), c < C)


@triton.jit
def project_bwd_kernel(
    grad_context_ptr,
    context_ptr,
    pooled_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    N,
    C,
    D,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """grad_weight ``[D, C] = gz^T pooled`` and grad_bias ``[D] = sum_n gz``."""
    ACC: tl.constexpr = context_ptr.dtype.element_ty
    d = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    grad_weight = tl.zeros([OUTPUTS, CHANNELS], ACC)
    grad_bias = tl.zeros([OUTPUTS], ACC)
    for image in range(0, N):
        n = tl.cast(image, tl.int64)
        context = tl.load(context_ptr + n * D + d, d < D, other=0.0)
        grad_z = tl.load(grad_context_ptr + n * D + d, d < D, other=0.0)
        grad_z = relu_gradient(context, grad_z)
        pooled = tl.load(pooled_ptr + n * C + c, c < C, other=0.0).to(ACC)
        grad_weight += grad_z[:, None] * pooled[None, :]
        grad_bias += grad_z
    inside = (d < D)[:, None] & (c < C)[None, :]
    tl.store(grad_weight_ptr + d[:, None] * C + c[None, :], grad_weight, inside)
    tl.store(grad_bias_ptr + d, grad_bias, (d < D) & (tl.program_id(1) == 0))


def pooled_context_backward(
    grad_context: Tensor,
    context: Tensor,
    pooled: Tensor,
    index: Tensor,
    weight: Tensor,
    grad_p_high: Tensor,
) -> tuple[Tensor, Tensor]:
    """grad_weight ``[Cl, Ch]`` and grad_bias ``[Cl]``; grad_p_high changes in place."""
    N, C, h, w = grad_p_high.shape
    D = weight.shape[0]
    grad_weight = context.new_empty(D, C)
    grad_bias = context.new_empty(D)
    if N:
        limits = settings.find("scatter_pooled", grad_p_high)
        launch(
            scatter_pooled_kernel,
            (N, cdiv(C, limits.columns)),
            grad_context,
            context,
            index,
            weight,
            grad_p_high,
            h * w,
            C,
            D,
            OUTPUTS=power_of_2(D, limits.rows),
            CHANNELS=limits.columns,
            CHANNELS_LAST=is_channels_last(grad_p_high),
            num_warps=limits.warps,
        )
    limits = settings.find("project_bwd", grad_p_high)
    channels = power_of_2(C, limits.columns)
    launch(
        project_bwd_kernel,
        (cdiv(D, limits.rows), cdiv(C, channels)),
        grad_context,
        context,
        pooled,
        grad_weight,
        grad_bias,
        N,
        C,
        D,
        OUTPUTS=limits.rows,
        CHANNELS=channels,
        num_warps=limits.warps,
    )
    return grad_weight, grad_bias
