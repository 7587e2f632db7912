"""CEM: the pooled context (Eq. 2-3), its backward, and the context add (Eq. 4).

At p_low ``[1, 256, 200, 200]``, p_high ``[1, 256, 25, 25]`` in bfloat16 on an H200 (4.3 TB/s):

===========================  ==========================  ==========  ========
kernel                       bytes                       operations  time
===========================  ==========================  ==========  ========
``max_pool``                 read 0.32 MB                0.2 M       latency
``project``                  read 0.13 MB                0.1 M       latency
``context_add``              read 20.5, write 20.5 MB    10 M        9.5 us
``pooled_context_backward``  read 0.26, write 0.26 MB    0.3 M       latency
===========================  ==========================  ==========  ========

The pool and the projection are two launches, since every output needs every pooled channel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import (
    accumulator,
    accumulator_type,
    cdiv,
    is_channels_last,
    launch,
    power_of_2,
    wide_tile,
)
from .tile import map_tile


@triton.jit
def max_pool_kernel(
    p_high_ptr,
    pooled_ptr,
    index_ptr,
    HW,
    C,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ACC: tl.constexpr,
):
    """pooled and index ``[N, C]``: the maximum over pixels and its first position; NaN wins."""
    n = tl.program_id(0)
    c0 = tl.program_id(1) * CHANNELS
    c = c0 + tl.arange(0, CHANNELS)
    lane = tl.arange(0, PIXELS)
    nowhere = tl.cast(0x7FFFFFFF, tl.int32)
    best = tl.full([PIXELS, CHANNELS], float("-inf"), ACC)
    best_at = tl.zeros([PIXELS, CHANNELS], tl.int32) + tl.where(lane < HW, lane, nowhere)[:, None]
    for p0 in range(0, HW, PIXELS):
        p = p0 + lane
        pointers = map_tile(p_high_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
        x = tl.load(pointers, (p < HW)[:, None] & (c < C)[None, :], other=float("-inf")).to(ACC)
        better = (x > best) | ((x != x) & (best == best))
        best = tl.where(better, x, best)
        best_at = tl.where(better, p[:, None], best_at)
    is_nan = best != best
    has_nan = tl.max(is_nan.to(tl.int32), axis=0) > 0
    largest = tl.max(tl.where(is_nan, float("-inf"), best), axis=0)
    chosen = tl.where(has_nan[None, :], is_nan, best == largest[None, :])
    index = tl.min(tl.where(chosen, best_at, nowhere), axis=0)
    pooled = tl.where(has_nan, float("nan"), largest)
    offset = n.to(tl.int64) * C + c
    tl.store(pooled_ptr + offset, pooled.to(pooled_ptr.dtype.element_ty), c < C)
    tl.store(index_ptr + offset, index, c < C)


@triton.jit
def project_kernel(
    pooled_ptr,
    weight_ptr,
    bias_ptr,
    context_ptr,
    C,
    D,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """context ``[N, D] = relu(bias + pooled weight^T)``, Eq. 3."""
    ACC: tl.constexpr = context_ptr.dtype.element_ty
    n = tl.program_id(0)
    d = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros([OUTPUTS, CHANNELS], ACC)
    for c0 in range(0, C, CHANNELS):
        c = c0 + tl.arange(0, CHANNELS)
        pooled = tl.load(pooled_ptr + n * C + c, c < C, other=0.0).to(ACC)
        inside = (d < D)[:, None] & (c < C)[None, :]
        weight = tl.load(weight_ptr + d[:, None] * C + c[None, :], inside, other=0.0).to(ACC)
        total += weight * pooled[None, :]
    z = tl.load(bias_ptr + d, d < D, other=0.0).to(ACC) + tl.sum(total, axis=1)
    tl.store(context_ptr + n * D + d, tl.where(z < 0, 0.0, z), d < D)


def pooled_context(p_high: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """context ``[N, Cl]``, pooled ``[N, Ch]`` and index ``[N, Ch]`` of p_high ``[N, Ch, h, w]``."""
    N, C, h, w = p_high.shape
    D = weight.shape[0]
    pooled = p_high.new_empty(N, C)
    index = p_high.new_empty(N, C, dtype=torch.int32)
    context = p_high.new_empty(N, D, dtype=accumulator(p_high))
    if N:
        channels_last = is_channels_last(p_high)
        channels = power_of_2(C, 8)
        launch(
            max_pool_kernel,
            (N, cdiv(C, channels)),
            p_high,
            pooled,
            index,
            h * w,
            C,
            PIXELS=power_of_2(h * w, 256),
            CHANNELS=channels,
            CHANNELS_LAST=channels_last,
            ACC=accumulator_type(p_high),
        )
        launch(
            project_kernel,
            (N, cdiv(D, 8)),
            pooled,
            weight,
            bias,
            context,
            C,
            D,
            OUTPUTS=8,
            CHANNELS=power_of_2(C, 256),
        )
    return context, pooled, index


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
    n = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros([OUTPUTS, CHANNELS], ACC)
    for d0 in range(0, D, OUTPUTS):
        d = d0 + tl.arange(0, OUTPUTS)
        context = tl.load(context_ptr + n * D + d, d < D, other=0.0)
        grad_z = tl.load(grad_context_ptr + n * D + d, d < D, other=0.0)
        grad_z = tl.where(context > 0, grad_z, 0.0)
        inside = (d < D)[:, None] & (c < C)[None, :]
        weight = tl.load(weight_ptr + d[:, None] * C + c[None, :], inside, other=0.0).to(ACC)
        total += weight * grad_z[:, None]
    index = tl.load(index_ptr + n * C + c, c < C, other=0)
    n = n.to(tl.int64)
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
    for n in range(0, N):
        context = tl.load(context_ptr + n * D + d, d < D, other=0.0)
        grad_z = tl.load(grad_context_ptr + n * D + d, d < D, other=0.0)
        grad_z = tl.where(context > 0, grad_z, 0.0)
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
        launch(
            scatter_pooled_kernel,
            (N, cdiv(C, 16)),
            grad_context,
            context,
            index,
            weight,
            grad_p_high,
            h * w,
            C,
            D,
            OUTPUTS=power_of_2(D, 64),
            CHANNELS=16,
            CHANNELS_LAST=is_channels_last(grad_p_high),
        )
    channels = power_of_2(C, 128)
    launch(
        project_bwd_kernel,
        (cdiv(D, 8), cdiv(C, channels)),
        grad_context,
        context,
        pooled,
        grad_weight,
        grad_bias,
        N,
        C,
        D,
        OUTPUTS=8,
        CHANNELS=channels,
    )
    return grad_weight, grad_bias


@triton.jit
def context_add_kernel(
    p_low_ptr,
    context_ptr,
    out_ptr,
    HW,
    C,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """out ``= p_low + context``, Eq. 4."""
    p0 = tl.program_id(0) * PIXELS
    c0 = tl.program_id(1) * CHANNELS
    n = tl.program_id(2)
    c = c0 + tl.arange(0, CHANNELS)
    inside = (p0 + tl.arange(0, PIXELS) < HW)[:, None] & (c < C)[None, :]
    p_low = tl.load(
        map_tile(p_low_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST), inside, other=0.0
    )
    context = tl.load(context_ptr + n * C + c, c < C, other=0.0)
    out = p_low.to(context.dtype) + context[None, :]
    pointers = map_tile(out_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
    tl.store(pointers, out.to(out_ptr.dtype.element_ty), inside)


def context_add(p_low: Tensor, context: Tensor) -> Tensor:
    """``p_low [N, C, H, W] + context [N, C]``."""
    N, C, H, W = p_low.shape
    out = torch.empty_like(p_low)
    if out.numel():
        channels_last = is_channels_last(p_low)
        tile = wide_tile(C, H * W, channels_last)
        launch(
            context_add_kernel,
            (cdiv(H * W, tile.pixels), cdiv(C, tile.channels), N),
            p_low,
            context,
            out,
            H * W,
            C,
            PIXELS=tile.pixels,
            CHANNELS=tile.channels,
            CHANNELS_LAST=channels_last,
            num_warps=tile.warps,
        )
    return out
