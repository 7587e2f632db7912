"""FBSM, the adjoint of the high gate: both stages gather; see ``upsampled_gate``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import settings
from .high_gate import column_tile, interpolated_rows
from .high_gate_walk import (
    first_sources,
    gather_to,
    last_sample,
    next_source,
    source_weights,
    start_walk,
)
from .launch import cdiv, chunks, is_channels_last, launch, tile_of
from .reduce import split_sum
from .settings import CHANNELS_LAST, UPSAMPLED_PROGRAMS, UPSAMPLED_WALK
from .tile import gate_slope, gather_range, map_tile, relu, relu_gradient


@triton.jit
def weight_of(i, q, low, high, ACC: tl.constexpr):
    """The weight with which position ``q`` reads low-resolution position ``i``."""
    # Twice the distance of its source, held inside of the samples, in units of 1 / high.
    source = tl.minimum(tl.maximum((2 * q + 1) * low - high, 0), (low - 1) * 2 * high)
    weight = tl.maximum(2 * high - tl.abs(source - i * (2 * high)), 0)
    weight = tl.where((q >= 0) & (q < high), weight, 0)
    return tl.cast(weight, ACC) / tl.cast(2 * high, ACC)


@triton.jit
def upsampled_bwd_kernel(
    grad_ptr,
    gate_ptr,
    rows_ptr,
    bias_ptr,
    gate_weight_ptr,
    grad_rows_ptr,
    partial_ptr,
    each,
    h,
    H,
    W,
    D,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    GATED: tl.constexpr,
    JUMPS: tl.constexpr,
):
    """The adjoint of the second stage at ``each`` low-resolution rows, and the parameters' gradients.

    grad_rows ``[N, h, 3, W, D]`` of these rows collects from every image row that reads them. Over the
    image rows whose first source is one of them, partial ``[programs, D]`` sums the gradient of
    bias and, ``GATED``, ``[programs, 2 D + 1]`` those of bias, gate_weight and gate_bias.
    """
    ACC: tl.constexpr = rows_ptr.dtype.element_ty
    strips = tl.cdiv(h, each)
    n = tl.program_id(0) // strips
    begin = tl.program_id(0) % strips * each
    end = tl.minimum(begin + each, h)
    x0 = tl.program_id(1) * PIXELS
    c0 = tl.program_id(2) * CHANNELS
    x = x0 + tl.arange(0, PIXELS)
    d = c0 + tl.arange(0, CHANNELS)
    inside = (x < W)[:, None] & (d < D)[None, :]
    bias = tl.load(bias_ptr + d, d < D, other=0.0).to(ACC)[None, :]
    scale = 1.0
    if GATED:
        scale = tl.load(gate_weight_ptr + d, d < D, other=0.0).to(ACC)[None, :]
    width = tl.cast(W, tl.int64) * D
    step = 3 * width
    tile = x[:, None] * D + d[None, :]
    strip = begin, end, step, tile, inside, scale
    row0, out0 = rows_ptr + n * h * step, grad_rows_ptr + n * h * step
    row1, out1 = row0 + width, out0 + width
    row2, out2 = row1 + width, out1 + width
    y0 = tl.maximum(gather_range(begin, h, H)[0] - 1, 0)
    y1 = tl.minimum(gather_range(end - 1, h, H)[1] + 1, H)
    # Sources of the positions y - 1, y and y + 1 of the three taps; each is computed once.
    i0, i1, i2, remainder, u0, v0, u1, v1 = first_sources(y0, h, H, ACC)
    at0, at1, at2 = tl.minimum(i0, begin), tl.minimum(i1, begin), tl.minimum(i1, begin)
    last = last_sample(y1, h, H)
    near0, far0, _ = start_walk(row0, step, tile, inside, at0, last)
    near1, far1, _ = start_walk(row1, step, tile, inside, at1, last)
    near2, far2, _ = start_walk(row2, step, tile, inside, at2, last)
    zeros = tl.zeros([PIXELS, CHANNELS], ACC)
    low0, high0, low1, high1, low2, high2 = zeros, zeros, zeros, zeros, zeros, zeros
    bias_sum, weight_sum = zeros, zeros
    gate_sum = tl.zeros([PIXELS], ACC)
    if GATED:
        above = (tl.cast(n, tl.int64) * H + y0) * W
        gate = tl.load(gate_ptr + above + x, (x < W) & (y0 < y1), other=0.0)
        grad = tl.load(grad_ptr + above + x, (x < W) & (y0 < y1), other=0.0)
    else:
        pointers = map_tile(grad_ptr, n, y0 * W + x0, c0, H * W, D, PIXELS, CHANNELS, CHANNELS_LAST)
        grad = tl.load(pointers, inside & (y0 < y1), other=0.0)
    for y in range(y0, y1):
        i2, remainder = next_source(i2, remainder, h, H, JUMPS)
        u2, v2 = source_weights(y + 1, i2, remainder, h, H, ACC)
        at0, near0, far0, low0, high0, _ = gather_to(
            i0, at0, near0, far0, low0, high0, bias_sum, row0, out0, last, strip, JUMPS, False
        )
        at1, near1, far1, low1, high1, bias_sum = gather_to(
            i1, at1, near1, far1, low1, high1, bias_sum, row1, out1, last, strip, JUMPS, True
        )
        at2, near2, far2, low2, high2, _ = gather_to(
            i2, at2, near2, far2, low2, high2, bias_sum, row2, out2, last, strip, JUMPS, False
        )
        a = bias + u0 * near0 + v0 * far0 + u1 * near1 + v1 * far1 + u2 * near2 + v2 * far2
        # What comes from above is loaded a row ahead.
        if GATED:
            logit = grad * gate_slope(gate)
            owned = logit * tl.cast((i1 >= begin) & (i1 < end), ACC)
            gate_sum += owned
            weight_sum += owned[:, None] * relu(a)
            hidden = relu_gradient(a, logit[:, None])
            above += W
            gate = tl.load(gate_ptr + above + x, (x < W) & (y + 1 < y1), other=0.0)
            grad = tl.load(grad_ptr + above + x, (x < W) & (y + 1 < y1), other=0.0)
        else:
            hidden = relu_gradient(a, grad.to(ACC))
            pointers = map_tile(
                grad_ptr, n, (y + 1) * W + x0, c0, H * W, D, PIXELS, CHANNELS, CHANNELS_LAST
            )
            grad = tl.load(pointers, inside & (y + 1 < y1), other=0.0)
        low0 += u0 * hidden
        high0 += v0 * hidden
        low1 += u1 * hidden
        high1 += v1 * hidden
        low2 += u2 * hidden
        high2 += v2 * hidden
        i0, u0, v0, i1, u1, v1 = i1, u1, v1, i2, u2, v2
    gather_to(end + 1, at0, near0, far0, low0, high0, bias_sum, row0, out0, -1, strip, True, False)
    _, _, _, _, _, bias_sum = gather_to(
        end + 1, at1, near1, far1, low1, high1, bias_sum, row1, out1, -1, strip, True, True
    )
    gather_to(end + 1, at2, near2, far2, low2, high2, bias_sum, row2, out2, -1, strip, True, False)
    program = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    if GATED:
        out = partial_ptr + program * (2 * D + 1)
        tl.store(out + d, tl.sum(bias_sum * scale, axis=0), d < D)
        tl.store(out + D + d, tl.sum(weight_sum, axis=0), d < D)
        tl.store(out + 2 * D, tl.sum(gate_sum, axis=0), tl.program_id(2) == 0)
    else:
        tl.store(partial_ptr + program * D + d, tl.sum(bias_sum, axis=0), d < D)


@triton.jit
def upsampled_rows_bwd_kernel(
    grad_rows_ptr,
    grad_taps_ptr,
    count,
    w,
    W,
    D,
    ROWS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The adjoint of the first stage: grad_taps ``[N h, w, 9, D]`` of one column ``j``.

    A program does ROWS of the ``count`` rows ``[N h 3, W, D]``: all read with the same weights.
    """
    ACC: tl.constexpr = grad_taps_ptr.dtype.element_ty
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1)
    d = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (row < count)[:, None] & (d < D)[None, :]
    row = row.to(tl.int64)
    base = grad_rows_ptr + ((row * W * D)[:, None] + d[None, :])[:, None, :]
    grad0 = tl.zeros([ROWS, PIXELS, CHANNELS], ACC)
    grad1, grad2 = grad0, grad0
    first, last = gather_range(j, w, W)
    last = tl.minimum(last + 1, W)
    for x0 in range(tl.maximum(first - 1, 0), last, PIXELS):
        x = x0 + tl.arange(0, PIXELS)
        here = inside[:, None, :] & (x < last)[None, :, None]
        grad = tl.load(base + (x * D)[None, :, None], here, other=0.0)
        grad0 += weight_of(j, x - 1, w, W, ACC)[None, :, None] * grad
        grad1 += weight_of(j, x, w, W, ACC)[None, :, None] * grad
        grad2 += weight_of(j, x + 1, w, W, ACC)[None, :, None] * grad
    out = grad_taps_ptr + (((row // 3 * w + j) * 9 + row % 3 * 3) * D)[:, None] + d[None, :]
    tl.store(out, tl.sum(grad0, axis=1), inside)
    tl.store(out + D, tl.sum(grad1, axis=1), inside)
    tl.store(out + 2 * D, tl.sum(grad2, axis=1), inside)


def launch_upsampled_backward(
    grad: Tensor, gate: Tensor | None, taps: Tensor, bias: Tensor, gate_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both stages of the backward: grad_taps and the partial sums of the parameters' gradients."""
    N, h, w, _, D = taps.shape
    H, W = grad.shape[2:]
    gated = gate is not None
    channels_last = is_channels_last(grad)
    limits, tile = column_tile("upsampled_bwd", taps, H, W, gated, channels_last)
    columns, blocks = cdiv(W, tile.pixels), cdiv(D, tile.channels)
    most = max(UPSAMPLED_PROGRAMS // max(N * columns * blocks, 1), cdiv(h, UPSAMPLED_WALK))
    each, strips = chunks(h, 1, min(most, cdiv(h, limits.walk)))
    partial = taps.new_empty(N * strips * columns, 2 * D + 1 if gated else D)
    if grad.numel() == 0:
        return torch.zeros_like(taps), partial[:0]
    rows = interpolated_rows(taps, W)
    # Rows that no pixel reads are not visited.
    grad_rows = torch.zeros_like(rows) if h > H else torch.empty_like(rows)
    launch(
        upsampled_bwd_kernel,
        (N * strips, columns, blocks),
        grad,
        gate,
        rows,
        bias,
        gate_weight,
        grad_rows,
        partial,
        each,
        h,
        H,
        W,
        D,
        PIXELS=tile.pixels,
        CHANNELS=tile.channels,
        CHANNELS_LAST=channels_last,
        GATED=gated,
        JUMPS=h > H,
        num_warps=tile.warps,
    )
    grad_taps = torch.empty_like(taps)
    limits = settings.find("upsampled_rows_bwd", taps, CHANNELS_LAST)
    tile = tile_of(limits, W, D, channels_last=True)
    launch(
        upsampled_rows_bwd_kernel,
        (cdiv(N * h * 3, limits.walk), w, cdiv(D, tile.channels)),
        grad_rows,
        grad_taps,
        N * h * 3,
        w,
        W,
        D,
        ROWS=limits.walk,
        PIXELS=tile.pixels,
        CHANNELS=tile.channels,
        num_warps=tile.warps,
    )
    return grad_taps, partial


def upsampled_gate_backward(
    grad_gate: Tensor, gate: Tensor, taps: Tensor, bias: Tensor, gate_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """grad_taps (like taps), grad_bias ``[D]``, grad_gate_weight ``[D]``, grad_gate_bias ``[1]``."""
    grad_taps, partial = launch_upsampled_backward(grad_gate, gate, taps, bias, gate_weight)
    D = taps.shape[-1]
    return grad_taps, *split_sum(partial, D, D, 1)


def upsampled_relu_backward(grad: Tensor, taps: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """grad_taps (like taps) and grad_bias ``[D]`` for the gradient of relu(A), a map."""
    grad_taps, partial = launch_upsampled_backward(grad, None, taps, bias, None)
    return grad_taps, *split_sum(partial, taps.shape[-1])
