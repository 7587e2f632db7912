"""CEM: the pooled context (Eq. 2-3) and the context add (Eq. 4).

At p_low ``[1, 256, 200, 200]``, p_high ``[1, 256, 25, 25]`` in bfloat16, channels_last, counted from the
launches (``benchmarks/kernels/triton_roofline.md``), with the time that an H200 needs for the bytes:

===========================  =======  ==========  =======
kernel                       bytes    operations  time
===========================  =======  ==========  =======
``max_pool``                 0.32 MB  1.4 M       latency
``project``                  0.13 MB  0.2 M       latency
``context_add``              41.0 MB  10 M        9.5 us
``pooled_context_backward``  1.0 MB   0.3 M       latency
===========================  =======  ==========  =======

The pool and the projection are two launches, since every output needs every pooled channel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import settings
from .launch import (
    accumulator,
    accumulator_type,
    cdiv,
    is_channels_last,
    launch,
    launch_map,
    map_tile_of,
    power_of_2,
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
    n = tl.program_id(0).to(tl.int64)
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
    offset = n * C + c
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
    n = tl.program_id(0).to(tl.int64)
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
        tile = map_tile_of("max_pool", p_high)
        launch(
            max_pool_kernel,
            (N, cdiv(C, tile.channels)),
            p_high,
            pooled,
            index,
            h * w,
            C,
            PIXELS=tile.pixels,
            CHANNELS=tile.channels,
            CHANNELS_LAST=channels_last,
            ACC=accumulator_type(p_high),
            num_warps=tile.warps,
        )
        limits = settings.find("project", p_high)
        launch(
            project_kernel,
            (N, cdiv(D, limits.rows)),
            pooled,
            weight,
            bias,
            context,
            C,
            D,
            OUTPUTS=limits.rows,
            CHANNELS=power_of_2(C, limits.columns),
            num_warps=limits.warps,
        )
    return context, pooled, index


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
    n = tl.program_id(2).to(tl.int64)
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
    _, C, H, W = p_low.shape
    out = torch.empty_like(p_low)
    launch_map(context_add_kernel, "context_add", p_low, p_low, context, out, H * W, C)
    return out
