"""FBSM, the adjoint of the high gate: both stages gather; see ``upsampled_gate``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import settings
from .launch import cdiv, is_channels_last, launch, tile_of
from .reduce import split_sum
from .settings import CHANNELS_LAST, CONTIGUOUS
from .tile import gather_range, map_tile, relu, tap_weights
from .upsampled_gate import column_tile, interpolated_rows, tap_row


@triton.jit
def weight_of(i, q, low, high, ACC: tl.constexpr):
    """The weight with which position ``q`` reads low-resolution position ``i``."""
    i0, i1, w0, w1 = tap_weights(q, low, high, ACC)
    return w0 * tl.cast(i0 == i, ACC) + w1 * tl.cast(i1 == i, ACC)


@triton.jit
def upsampled_bwd_kernel(
    grad_ptr,
    gate_ptr,
    rows_ptr,
    bias_ptr,
    gate_weight_ptr,
    grad_rows_ptr,
    partial_ptr,
    h,
    H,
    W,
    D,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    GATED: tl.constexpr,
):
    """The adjoint of the second stage at one low-resolution row ``i``, and the parameters' gradients.

    grad_rows ``[N, h, 3, W, D]`` collects from every image row that reads row ``i``. Row ``i`` owns the
    image rows whose first source it is; over these, partial ``[programs, D]`` sums the gradient of
    bias and, ``GATED``, ``[programs, 2 D + 1]`` those of bias, gate_weight and gate_bias.
    """
    ACC: tl.constexpr = rows_ptr.dtype.element_ty
    n = tl.program_id(0) // h
    i = tl.program_id(0) % h
    x0 = tl.program_id(1) * PIXELS
    c0 = tl.program_id(2) * CHANNELS
    x = x0 + tl.arange(0, PIXELS)
    d = c0 + tl.arange(0, CHANNELS)
    inside = (x < W)[:, None] & (d < D)[None, :]
    bias = tl.load(bias_ptr + d, d < D, other=0.0).to(ACC)[None, :]
    gate_weight = bias
    if GATED:
        gate_weight = tl.load(gate_weight_ptr + d, d < D, other=0.0).to(ACC)[None, :]
    width = tl.cast(W, tl.int64) * D
    tile = x[:, None] * D + d[None, :]
    row0 = rows_ptr + n * h * 3 * width + tile
    row1 = row0 + width
    row2 = row1 + width
    near0 = tl.zeros([PIXELS, CHANNELS], ACC)
    far0, near1, far1, near2, far2 = near0, near0, near0, near0, near0
    nowhere: tl.constexpr = -2
    at0, at1, at2 = nowhere, nowhere, nowhere
    grad0, grad1, grad2, bias_sum, weight_sum = near0, near0, near0, near0, near0
    gate_sum = tl.zeros([PIXELS], ACC)
    first, last = gather_range(i, h, H)
    y0 = tl.maximum(first - 1, 0)
    # Sources of the positions y - 1, y and y + 1 of the three taps, and how much they read row i.
    i0, _, u0, v0 = tap_weights(y0 - 1, h, H, ACC)
    i1, _, u1, v1 = tap_weights(y0, h, H, ACC)
    reads0 = weight_of(i, y0 - 1, h, H, ACC)
    reads1 = weight_of(i, y0, h, H, ACC)
    for y in range(y0, tl.minimum(last + 1, H)):
        i2, _, u2, v2 = tap_weights(y + 1, h, H, ACC)
        reads2 = weight_of(i, y + 1, h, H, ACC)
        a = tl.zeros([PIXELS, CHANNELS], ACC) + bias
        near0, far0, at0, a = tap_row(row0, 3 * width, inside, near0, far0, at0, a, i0, u0, v0, h)
        near1, far1, at1, a = tap_row(row1, 3 * width, inside, near1, far1, at1, a, i1, u1, v1, h)
        near2, far2, at2, a = tap_row(row2, 3 * width, inside, near2, far2, at2, a, i2, u2, v2, h)
        if GATED:
            at = (tl.cast(n, tl.int64) * H + y) * W + x
            gate = tl.load(gate_ptr + at, x < W, other=0.0)
            grad_logit = tl.load(grad_ptr + at, x < W, other=0.0) * gate * (1 - gate)
            grad = grad_logit[:, None] * gate_weight
        else:
            pointers = map_tile(
                grad_ptr, n, y * W + x0, c0, H * W, D, PIXELS, CHANNELS, CHANNELS_LAST
            )
            grad = tl.load(pointers, inside, other=0.0).to(ACC)
        grad = tl.where(a > 0, grad, 0.0)
        grad0 += reads0 * grad
        grad1 += reads1 * grad
        grad2 += reads2 * grad
        owned = tl.cast(i1 == i, ACC)
        bias_sum += owned * grad
        if GATED:
            weight_sum += (owned * grad_logit)[:, None] * relu(a)
            gate_sum += owned * grad_logit
        i0, u0, v0, reads0 = i1, u1, v1, reads1
        i1, u1, v1, reads1 = i2, u2, v2, reads2
    out = grad_rows_ptr + tl.program_id(0).to(tl.int64) * 3 * width + tile
    tl.store(out, grad0, inside)
    tl.store(out + width, grad1, inside)
    tl.store(out + 2 * width, grad2, inside)
    program = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    if GATED:
        out = partial_ptr + program * (2 * D + 1)
        tl.store(out + d, tl.sum(bias_sum, axis=0), d < D)
        tl.store(out + D + d, tl.sum(weight_sum, axis=0), d < D)
        tl.store(out + 2 * D, tl.sum(gate_sum, axis=0), tl.program_id(2) == 0)
    else:
        tl.store(partial_ptr + program * D + d, tl.sum(bias_sum, axis=0), d < D)


@triton.jit
def upsampled_rows_bwd_kernel(
    grad_rows_ptr, grad_taps_ptr, w, W, D, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
):
    """The adjoint of the first stage: grad_taps ``[N h, w, 9, D]`` of one ky and one column ``j``."""
    ACC: tl.constexpr = grad_taps_ptr.dtype.element_ty
    row = tl.program_id(0) // 3
    ky = tl.program_id(0) % 3
    j = tl.program_id(1)
    d = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    grad0 = tl.zeros([PIXELS, CHANNELS], ACC)
    grad1, grad2 = grad0, grad0
    first, last = gather_range(j, w, W)
    last = tl.minimum(last + 1, W)
    base = grad_rows_ptr + tl.program_id(0).to(tl.int64) * W * D
    for x0 in range(tl.maximum(first - 1, 0), last, PIXELS):
        x = x0 + tl.arange(0, PIXELS)
        inside = (x < last)[:, None] & (d < D)[None, :]
        grad = tl.load(base + x[:, None] * D + d[None, :], inside, other=0.0)
        grad0 += weight_of(j, x - 1, w, W, ACC)[:, None] * grad
        grad1 += weight_of(j, x, w, W, ACC)[:, None] * grad
        grad2 += weight_of(j, x + 1, w, W, ACC)[:, None] * grad
    out = grad_taps_ptr + ((row.to(tl.int64) * w + j) * 9 + 3 * ky) * D + d
    tl.store(out, tl.sum(grad0, axis=0), d < D)
    tl.store(out + D, tl.sum(grad1, axis=0), d < D)
    tl.store(out + 2 * D, tl.sum(grad2, axis=0), d < D)


def launch_upsampled_backward(
    grad: Tensor, gate: Tensor | None, taps: Tensor, bias: Tensor, gate_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both stages of the backward: grad_taps and the partial sums of the parameters' gradients."""
    N, h, w, _, D = taps.shape
    H, W = grad.shape[2:]
    gated = gate is not None
    channels_last = is_channels_last(grad)
    _, tile = column_tile("upsampled_bwd", taps, H, W, gated, channels_last)
    columns = cdiv(W, tile.pixels)
    partial = taps.new_empty(N * h * columns, 2 * D + 1 if gated else D)
    if grad.numel() == 0:
        return torch.zeros_like(taps), partial[:0]
    rows = interpolated_rows(taps, W)
    grad_rows = torch.empty_like(rows)
    launch(
        upsampled_bwd_kernel,
        (N * h, columns, cdiv(D, tile.channels)),
        grad,
        gate,
        rows,
        bias,
        gate_weight,
        grad_rows,
        partial,
        h,
        H,
        W,
        D,
        PIXELS=tile.pixels,
        CHANNELS=tile.channels,
        CHANNELS_LAST=channels_last,
        GATED=gated,
        num_warps=tile.warps,
    )
    grad_taps = torch.empty_like(taps)
    layout = CHANNELS_LAST if gated or channels_last else CONTIGUOUS
    limits = settings.find("upsampled_rows_bwd", taps, layout)
    tile = tile_of(limits, W, D, channels_last=True)
    launch(
        upsampled_rows_bwd_kernel,
        (N * h * 3, w, cdiv(D, tile.channels)),
        grad_rows,
        grad_taps,
        w,
        W,
        D,
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
