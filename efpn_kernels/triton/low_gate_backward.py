"""FBSM, the backward of the low gate, and sums over border classes; bytes and times stand in ``low_gate``.

A program walks a segment of one image row, so that the class of a pixel depends on its column only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import settings
from .launch import (
    accumulator,
    alignment,
    cdiv,
    chunks,
    is_channels_last,
    launch,
    map_tile_of,
    power_of_2,
)
from .reduce import split_sum
from .settings import ROW_SEGMENTS
from .tile import border_class, gate_slope, map_tile, relu, relu_gradient


@triton.jit
def row_grad(
    x_ptr, grad_gate_ptr, gate_ptr, p, x, W, border, gate_weight, inside, GATED: tl.constexpr
):
    """Of pixels ``x`` of one row: d logit, the hidden map relu(z), and its gradient before the ReLU."""
    ACC: tl.constexpr = border.dtype
    value = tl.load(x_ptr, inside, other=0.0).to(ACC)
    if GATED:
        gate = tl.load(gate_ptr + p, x < W, other=0.0)
        grad_logit = tl.load(grad_gate_ptr + p, x < W, other=0.0) * gate_slope(gate)
        z = value + border
        hidden = relu(z)
        grad = relu_gradient(z, grad_logit[:, None] * gate_weight[None, :])
    else:
        grad_logit = tl.zeros([x.shape[0]], ACC)
        hidden = value
        grad = value
    return grad_logit, hidden, grad


@triton.jit
def border_sum_kernel(
    grad_gate_ptr,
    gate_ptr,
    x_ptr,
    border_ptr,
    gate_weight_ptr,
    grad_ptr,
    border_partial_ptr,
    gate_partial_ptr,
    H,
    W_UNITS,
    D,
    tiles,
    W_ALIGN: tl.constexpr,
    SEGMENTS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    GATED: tl.constexpr,
):
    """One segment of an image row: sums of the gradient over its left, middle and right classes.

    border_partial is ``[N, H, SEGMENTS + 2, D]``: the middle of each segment, then left and right, which
    are one pixel each. ``GATED``: the gradient is that of the low gate at conv = x, and is stored in
    grad; gate_partial ``[N * H * SEGMENTS, D + 1]`` takes the gradients of gate_weight and gate_bias.
    Otherwise the gradient is x itself.
    """
    ACC: tl.constexpr = border_partial_ptr.dtype.element_ty
    W = W_UNITS * W_ALIGN
    HW = H * W
    segment = tl.program_id(0) % SEGMENTS
    row = tl.program_id(0) // SEGMENTS
    n = (row // H).to(tl.int64)
    y = row % H
    c0 = tl.program_id(1) * CHANNELS
    c = c0 + tl.arange(0, CHANNELS)
    pixel = tl.arange(0, PIXELS)
    left = tl.zeros([CHANNELS], ACC)
    middle = left
    right = left
    gate_weight = left
    if GATED:
        class_row = border_ptr + (n * 3 + border_class(y, H)) * 3 * D + c
        left = tl.load(class_row, c < D, other=0.0)
        middle = tl.load(class_row + D, c < D, other=0.0)
        right = tl.load(class_row + 2 * D, c < D, other=0.0)
        gate_weight = tl.load(gate_weight_ptr + c, c < D, other=0.0).to(ACC)
    gate_row = n * HW + y * W
    middle_sum = tl.zeros([CHANNELS], ACC)
    weight_sum = tl.zeros([CHANNELS], ACC)
    bias_sum = tl.zeros([PIXELS], ACC)
    for tile in range(segment * tiles, (segment + 1) * tiles):
        x0 = tile * PIXELS
        x = x0 + pixel
        p0 = y * W + x0
        is_left = (x == 0)[:, None]
        is_right = ((x == W - 1) & (x > 0))[:, None]
        border = tl.where(
            is_left, left[None, :], tl.where(is_right, right[None, :], middle[None, :])
        )
        inside = (x < W)[:, None] & (c < D)[None, :]
        pointers = map_tile(x_ptr, n, p0, c0, HW, D, PIXELS, CHANNELS, CHANNELS_LAST)
        grad_logit, hidden, grad = row_grad(
            pointers,
            grad_gate_ptr,
            gate_ptr,
            gate_row + x,
            x,
            W,
            border,
            gate_weight,
            inside,
            GATED,
        )
        middle_sum += tl.sum(tl.where(is_left | is_right, 0.0, grad), axis=0)
        if GATED:
            weight_sum += tl.sum(grad_logit[:, None] * hidden, axis=0)
            bias_sum += grad_logit
            pointers = map_tile(grad_ptr, n, p0, c0, HW, D, PIXELS, CHANNELS, CHANNELS_LAST)
            tl.store(pointers, grad.to(grad_ptr.dtype.element_ty), inside)
    out = border_partial_ptr + row.to(tl.int64) * (SEGMENTS + 2) * D + c
    tl.store(out + segment * D, middle_sum, c < D)
    if segment == 0:
        # Loading the two pixels again is cheaper than two more sums over every tile.
        x = tl.arange(0, 1)
        inside = (c < D)[None, :]
        pointers = map_tile(x_ptr, n, y * W, c0, HW, D, 1, CHANNELS, CHANNELS_LAST)
        _, _, grad = row_grad(
            pointers,
            grad_gate_ptr,
            gate_ptr,
            gate_row + x,
            x,
            W,
            left[None, :],
            gate_weight,
            inside,
            GATED,
        )
        tl.store(out + SEGMENTS * D, tl.sum(grad, axis=0), c < D)
        x += W - 1
        pointers = map_tile(x_ptr, n, y * W + W - 1, c0, HW, D, 1, CHANNELS, CHANNELS_LAST)
        _, _, grad = row_grad(
            pointers,
            grad_gate_ptr,
            gate_ptr,
            gate_row + x,
            x,
            W,
            right[None, :],
            gate_weight,
            inside,
            GATED,
        )
        grad = tl.where(W > 1, grad, 0.0)
        tl.store(out + (SEGMENTS + 1) * D, tl.sum(grad, axis=0), c < D)
    if GATED:
        out = gate_partial_ptr + tl.program_id(0).to(tl.int64) * (D + 1)
        tl.store(out + c, weight_sum, c < D)
        tl.store(out + D, tl.sum(bias_sum, axis=0), tl.program_id(1) == 0)


@triton.jit
def class_sum_kernel(
    partial_ptr,
    out_ptr,
    H,
    D,
    SEGMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out ``[N, 3, 3, D]``: sums of partial ``[N, H, SEGMENTS + 2, D]`` over the rows of each class."""
    n = tl.program_id(1).to(tl.int64)
    cy = tl.program_id(2) // 3
    cx = tl.program_id(2) % 3
    d = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    first = tl.where(cy == 0, 0, tl.where(cy == 1, 1, tl.maximum(H - 1, 1)))
    last = tl.where(cy == 0, 1, tl.where(cy == 1, H - 1, H))
    # The middle class has SEGMENTS slots in a row, the others one behind them.
    slots = tl.where(cx == 1, SEGMENTS, 1)
    slot0 = tl.where(cx == 1, 0, tl.where(cx == 0, SEGMENTS, SEGMENTS + 1))
    total = tl.zeros([ROWS, CHANNELS], out_ptr.dtype.element_ty)
    for r0 in range(first * slots, last * slots, ROWS):
        r = r0 + tl.arange(0, ROWS)
        row = (r // slots) * (SEGMENTS + 2) + slot0 + r % slots
        pointers = partial_ptr + (n * H * (SEGMENTS + 2) + row[:, None]) * D + d[None, :]
        total += tl.load(pointers, (r < last * slots)[:, None] & (d < D)[None, :], other=0.0)
    out = out_ptr + (n * 9 + tl.program_id(2)) * D + d
    tl.store(out, tl.sum(total, axis=0), d < D)


def launch_border_sum(
    grad_gate: Tensor | None,
    gate: Tensor | None,
    x: Tensor,
    border: Tensor | None,
    gate_weight: Tensor | None,
    grad: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Sums over classes ``[N, 3, 3, D]`` and, gated, the partial sums ``[rows, D + 1]`` for the gate."""
    N, D, H, W = x.shape
    gated = gate is not None
    channels_last = is_channels_last(x)
    tile = map_tile_of("border_sum_gated" if gated else "border_sum", x, pixels=W)
    tiles, segments = chunks(W, tile.pixels, ROW_SEGMENTS)
    dtype = accumulator(x)
    sums = x.new_empty(N, 3, 3, D, dtype=dtype)
    gate_partial = x.new_empty(N * H * segments, D + 1, dtype=dtype) if gated else None
    if x.numel() == 0:
        return sums.zero_(), gate_partial
    partial = x.new_empty(N, H, segments + 2, D, dtype=dtype)
    align = alignment(W)
    launch(
        border_sum_kernel,
        (N * H * segments, cdiv(D, tile.channels)),
        grad_gate,
        gate,
        x,
        border,
        gate_weight,
        grad,
        partial,
        gate_partial,
        H,
        W // align,
        D,
        tiles,
        W_ALIGN=align,
        SEGMENTS=segments,
        PIXELS=tile.pixels,
        CHANNELS=tile.channels,
        CHANNELS_LAST=channels_last,
        GATED=gated,
        num_warps=tile.warps,
    )
    limits = settings.find("class_sum", partial)
    channels = power_of_2(D, limits.columns)
    launch(
        class_sum_kernel,
        (cdiv(D, channels), N, 9),
        partial,
        sums,
        H,
        D,
        SEGMENTS=segments,
        ROWS=limits.rows,
        CHANNELS=channels,
        num_warps=limits.warps,
    )
    return sums, gate_partial


def low_gate_backward(
    grad_gate: Tensor, gate: Tensor, conv: Tensor, border: Tensor, gate_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """grad_conv (a map), grad_border ``[N, 3, 3, D]``, grad_gate_weight ``[D]``, grad_gate_bias ``[1]``."""
    grad_conv = torch.empty_like(conv)
    grad_border, gate_partial = launch_border_sum(
        grad_gate, gate, conv, border, gate_weight, grad_conv
    )
    return grad_conv, grad_border, *split_sum(gate_partial, conv.shape[1], 1)


def border_sum(grad: Tensor) -> Tensor:
    """The sums ``[N, 3, 3, D]`` of a map over its border classes."""
    return launch_border_sum(None, None, grad, None, None, None)[0]
