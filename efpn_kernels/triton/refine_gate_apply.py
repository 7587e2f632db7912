"""FBSM: fuse the gates (Eq. 7) and separate (Eq. 5) in one pass.

At p_low ``[1, 256, 200, 200]`` in bfloat16, channels_last, with a context and one mask for all channels,
counted from the launches (``benchmarks/kernels/triton_roofline.md``), with the time that an H200 needs for
the bytes:

=======================  =======  ==========  =======
kernel                   bytes    operations  time
=======================  =======  ==========  =======
``gate_apply``           41.6 MB  22 M        9.7 us
``mask_apply``           41.1 MB  20 M        9.6 us
``mask_apply_backward``  43.9 MB  64 M        10.2 us
``mask_merge_``          61.6 MB  20 M        14.3 us
``fuse_backward``        0.7 MB   1.9 M       latency
=======================  =======  ==========  =======
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, is_channels_last, launch, map_tile_of
from .tile import map_tile, sigmoid


@triton.jit
def load_neighbour(gate_ptr, y, x, H, W):
    """An image's gate at pixels that may lie outside of it, where it is zero."""
    inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    return tl.load(gate_ptr + (y * W + x), inside, other=0.0)


@triton.jit
def gate_apply_kernel(
    p_low_ptr,
    context_ptr,
    m_high_ptr,
    m_low_ptr,
    fuse_weight_ptr,
    fuse_bias_ptr,
    x_ptr,
    mask_ptr,
    H,
    W,
    HW,
    C,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    HAS_CONTEXT: tl.constexpr,
):
    """mask ``= sigmoid(fuse_bias + conv3x3(m_high + m_low))`` and x ``= (p_low + context) mask``."""
    ACC: tl.constexpr = mask_ptr.dtype.element_ty
    p0 = tl.program_id(0) * PIXELS
    n = tl.program_id(1).to(tl.int64)
    p = p0 + tl.arange(0, PIXELS)
    logit = tl.zeros([PIXELS], ACC) + tl.load(fuse_bias_ptr).to(ACC)
    m_high = m_high_ptr + n * HW
    m_low = m_low_ptr + n * HW
    for tap in tl.static_range(9):
        y = p // W + (tap // 3 - 1)
        x = p % W + (tap % 3 - 1)
        fused = load_neighbour(m_high, y, x, H, W) + load_neighbour(m_low, y, x, H, W)
        logit += tl.load(fuse_weight_ptr + tap).to(ACC) * fused
    mask_pointers = mask_ptr + n * HW + p
    tl.store(mask_pointers, sigmoid(logit), p < HW)
    # Through memory, or else every thread computes the mask of each pixel of its tile.
    tl.debug_barrier()
    mask = tl.load(mask_pointers, p < HW, other=0.0)
    for c0 in range(0, C, CHANNELS):
        c = c0 + tl.arange(0, CHANNELS)
        inside = (p < HW)[:, None] & (c < C)[None, :]
        pointers = map_tile(p_low_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
        total = tl.load(pointers, inside, other=0.0).to(ACC)
        if HAS_CONTEXT:
            total += tl.load(context_ptr + n * C + c, c < C, other=0.0)[None, :]
        pointers = map_tile(x_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
        tl.store(pointers, (total * mask[:, None]).to(x_ptr.dtype.element_ty), inside)


def gate_apply(
    p_low: Tensor,
    context: Tensor | None,
    m_high: Tensor,
    m_low: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """x (a map like p_low) and the mask ``[N, 1, H, W]``."""
    N, C, H, W = p_low.shape
    x = torch.empty_like(p_low)
    mask = torch.empty_like(m_high)
    if mask.numel():
        channels_last = is_channels_last(p_low)
        tile = map_tile_of("gate_apply", p_low)
        launch(
            gate_apply_kernel,
            (cdiv(H * W, tile.pixels), N),
            p_low,
            context,
            m_high,
            m_low,
            fuse_weight,
            fuse_bias,
            x,
            mask,
            H,
            W,
            H * W,
            C,
            PIXELS=tile.pixels,
            CHANNELS=tile.channels,
            CHANNELS_LAST=channels_last,
            HAS_CONTEXT=context is not None,
            num_warps=tile.warps,
        )
    return x, mask
