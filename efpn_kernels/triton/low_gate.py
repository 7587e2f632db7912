"""FBSM, the low gate of Eq. 6: the epilogue of ``low_conv`` with the context as border classes.

``conv3x3(p_low + context) = conv3x3(p_low) + border[class]``, where the class of a pixel says which of
its row's and column's taps fall inside of the image (see ``efpn_kernels.ops.kernels``).

At conv ``[1, 256, 200, 200]`` in bfloat16, channels_last, counted from the launches
(``benchmarks/kernels/triton_roofline.md``), second stages included, with the time that an H200 needs for the
bytes:

========================  =======  ==========  =======
kernel                    bytes    operations  time
========================  =======  ==========  =======
``low_gate``              20.7 MB  51 M        4.8 us
``border_relu``           41.0 MB  20 M        9.5 us
``bias_relu_``            41.0 MB  20 M        9.5 us
``low_gate_backward``     45.4 MB  132 M       10.6 us
``border_sum``            23.0 MB  49 M        5.3 us
``border_bias``           1.2 MB   1.8 M       latency
``border_bias_backward``  3.6 MB   4.9 M       latency
========================  =======  ==========  =======
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import (
    accumulator_type,
    cdiv,
    is_channels_last,
    launch,
    launch_map,
    map_tile_of,
)
from .tile import border_class, map_tile, relu, sigmoid


@triton.jit
def load_border(border_ptr, n, p, c, H, W, D, inside):
    """border of pixels ``p`` and channels ``c`` as a tile."""
    row = 3 * border_class(p // W, H) + border_class(p % W, W)
    return tl.load(border_ptr + n * 9 * D + (row[:, None] * D + c[None, :]), inside, other=0.0)


@triton.jit
def low_gate_fwd_kernel(
    conv_ptr,
    border_ptr,
    gate_weight_ptr,
    gate_bias_ptr,
    gate_ptr,
    H,
    W,
    HW,
    D,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """gate ``= sigmoid(gate_bias + sum_d gate_weight[d] relu(conv[d] + border[class, d]))``."""
    ACC: tl.constexpr = border_ptr.dtype.element_ty
    p0 = tl.program_id(0) * PIXELS
    n = tl.program_id(1).to(tl.int64)
    p = p0 + tl.arange(0, PIXELS)
    # Most tiles touch no border, and one vector of it does for all of their pixels.
    x0 = p0 % W
    last = (p0 + PIXELS - 1) // W
    interior = (p0 // W > 0) & (last < H - 1) & (x0 > 0) & (x0 + PIXELS < W)
    total = tl.zeros([PIXELS, CHANNELS], ACC)
    for c0 in range(0, D, CHANNELS):
        c = c0 + tl.arange(0, CHANNELS)
        inside = (p < HW)[:, None] & (c < D)[None, :]
        pointers = map_tile(conv_ptr, n, p0, c0, HW, D, PIXELS, CHANNELS, CHANNELS_LAST)
        conv = tl.load(pointers, inside, other=0.0).to(ACC)
        if interior:
            middle = tl.load(border_ptr + (n * 9 + 4) * D + c, c < D, other=0.0)
            z = conv + middle[None, :]
        else:
            z = conv + load_border(border_ptr, n, p, c, H, W, D, inside)
        gate_weight = tl.load(gate_weight_ptr + c, c < D, other=0.0).to(ACC)
        total += gate_weight[None, :] * relu(z)
    logit = tl.load(gate_bias_ptr).to(ACC) + tl.sum(total, axis=1)
    tl.store(gate_ptr + n * HW + p, sigmoid(logit), p < HW)


def low_gate(conv: Tensor, border: Tensor, gate_weight: Tensor, gate_bias: Tensor) -> Tensor:
    """The gate ``[N, 1, H, W]`` of conv ``[N, D, H, W]``."""
    N, D, H, W = conv.shape
    gate = border.new_empty(N, 1, H, W)
    if gate.numel():
        channels_last = is_channels_last(conv)
        tile = map_tile_of("low_gate_fwd", conv)
        launch(
            low_gate_fwd_kernel,
            (cdiv(H * W, tile.pixels), N),
            conv,
            border,
            gate_weight,
            gate_bias,
            gate,
            H,
            W,
            H * W,
            D,
            PIXELS=tile.pixels,
            CHANNELS=tile.channels,
            CHANNELS_LAST=channels_last,
            num_warps=tile.warps,
        )
    return gate


@triton.jit
def border_relu_kernel(
    conv_ptr,
    border_ptr,
    out_ptr,
    H,
    W,
    HW,
    D,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """out ``= relu(conv + border[class])``."""
    p0 = tl.program_id(0) * PIXELS
    c0 = tl.program_id(1) * CHANNELS
    n = tl.program_id(2).to(tl.int64)
    p = p0 + tl.arange(0, PIXELS)
    c = c0 + tl.arange(0, CHANNELS)
    inside = (p < HW)[:, None] & (c < D)[None, :]
    pointers = map_tile(conv_ptr, n, p0, c0, HW, D, PIXELS, CHANNELS, CHANNELS_LAST)
    border = load_border(border_ptr, n, p, c, H, W, D, inside)
    z = tl.load(pointers, inside, other=0.0).to(border.dtype) + border
    pointers = map_tile(out_ptr, n, p0, c0, HW, D, PIXELS, CHANNELS, CHANNELS_LAST)
    tl.store(pointers, relu(z).to(out_ptr.dtype.element_ty), inside)


@triton.jit
def bias_relu_kernel(
    x_ptr,
    bias_ptr,
    HW,
    C,
    ACC: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """x ``= relu(x + bias)``, in place."""
    p0 = tl.program_id(0) * PIXELS
    c0 = tl.program_id(1) * CHANNELS
    n = tl.program_id(2).to(tl.int64)
    c = c0 + tl.arange(0, CHANNELS)
    inside = (p0 + tl.arange(0, PIXELS) < HW)[:, None] & (c < C)[None, :]
    pointers = map_tile(x_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
    x = tl.load(pointers, inside, other=0.0).to(ACC)
    bias = tl.load(bias_ptr + c, c < C, other=0.0).to(ACC)
    tl.store(pointers, relu(x + bias[None, :]).to(x_ptr.dtype.element_ty), inside)


def bias_relu_(x: Tensor, bias: Tensor) -> None:
    """``x = relu(x + bias)``, a map ``[N, C, H, W]`` and ``[C]``."""
    _, C, H, W = x.shape
    launch_map(bias_relu_kernel, "bias_relu", x, x, bias, H * W, C, ACC=accumulator_type(x))


def border_relu(conv: Tensor, border: Tensor) -> Tensor:
    """``relu(conv + border[class])``, a map."""
    _, D, H, W = conv.shape
    out = torch.empty_like(conv)
    launch_map(border_relu_kernel, "border_relu", conv, conv, border, out, H, W, H * W, D)
    return out
