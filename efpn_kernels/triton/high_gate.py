"""FBSM, the high gate of Eq. 6, commuted: nine low-resolution tap maps, interpolated and summed.

``A[y, x] = bias + sum_ky Y_ky(sum_kx X_kx(taps[ky, kx]))`` with the bilinear interpolations ``X_kx`` at
``x + kx - 1`` and ``Y_ky`` at ``y + ky - 1``. They are separable, so there are two stages:

1. rows ``[N, h, 3, W, D]``: for each low-resolution row and ky, the three X_kx summed;
2. A from six rows.

Reading nine taps of four corners for every pixel would be 1.5 GB through L2 at D = 256 and 200 x 200.
Both stages walk instead, along x, then down the columns, with what the taps lie between in registers
(``upsampled_walk``). Nothing of D x H x W is stored. The adjoints gather: each low-resolution row (then
column) collects from the pixels that read it, in a fixed order, recomputing A. The second stage's is a walk
as well, over a strip of rows: the image rows at its ends are seen by two strips, all others by one.

At taps ``[1, 25, 25, 9, 256]`` to 200 x 200 on an H200 (4.3 TB/s, L2 about twice that, 60 TFLOP/s), counted
by ``csrc/checking/counting.py`` over all programs, and the longer of the times for requests to L2 and operations:

======================  =================  ==========  =======
kernel                  bytes, requested   operations  time
======================  =================  ==========  =======
rows, forward           21 MB, 29 MB       42 M        3.4 us
columns, forward        16 MB, 28 MB       154 M       3.2 us
columns, backward       32 MB, 44 MB       373 M       6.2 us
rows, backward          21 MB, 41 MB       63 M        4.8 us
======================  =================  ==========  =======

Measured on an H200: 20 us forward, 55 us backward; before the walks, 23 and 86 us. Interpolating along y
first would need no rows in memory: on paper 31 MB in one launch, but 250 M operations in the forward.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import settings
from .high_gate_walk import (
    first_sources,
    last_sample,
    next_source,
    source_weights,
    start_walk,
    walk_to,
)
from .launch import Tile, cdiv, is_channels_last, launch, tile_of
from .settings import CHANNELS_LAST, CONTIGUOUS, Limits
from .tile import map_tile, relu, sigmoid


@triton.jit
def upsampled_rows_fwd_kernel(
    taps_ptr,
    rows_ptr,
    count,
    w,
    W,
    D,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    JUMPS: tl.constexpr,
):
    """rows ``[N h 3, W, D]``: for each ky, taps ``[N h, w, 9, D]`` interpolated in x and summed over kx.

    A program walks along COLUMNS columns of ROWS of the ``count`` rows.
    """
    ACC: tl.constexpr = rows_ptr.dtype.element_ty
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    x0 = tl.program_id(1) * COLUMNS
    d = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (row < count)[:, None] & (d < D)[None, :]
    row = row.to(tl.int64)
    tile = ((row // 3 * w * 9 + row % 3 * 3) * D)[:, None] + d[None, :]
    out = (row * W * D)[:, None] + d[None, :]
    step = tl.cast(9, tl.int64) * D
    end = tl.minimum(x0 + COLUMNS, W)
    # Sources of the positions x - 1, x and x + 1 of the three taps; each is computed once.
    i0, i1, i2, remainder, u0, v0, u1, v1 = first_sources(x0, w, W, ACC)
    at0, at1, at2 = i0, i1, i2
    tap0, last0 = taps_ptr, last_sample(end - 2, w, W)
    tap1, last1 = tap0 + D, last_sample(end - 1, w, W)
    tap2, last2 = tap1 + D, last_sample(end, w, W)
    near0, far0, ahead0 = start_walk(tap0, step, tile, inside, at0, last0)
    near1, far1, ahead1 = start_walk(tap1, step, tile, inside, at1, last1)
    near2, far2, ahead2 = start_walk(tap2, step, tile, inside, at2, last2)
    for x in range(x0, end):
        i2, remainder = next_source(i2, remainder, w, W, JUMPS)
        u2, v2 = source_weights(x + 1, i2, remainder, w, W, ACC)
        at0, near0, far0, ahead0 = walk_to(
            i0, at0, near0, far0, ahead0, tap0, step, tile, inside, last0, JUMPS
        )
        at1, near1, far1, ahead1 = walk_to(
            i1, at1, near1, far1, ahead1, tap1, step, tile, inside, last1, JUMPS
        )
        at2, near2, far2, ahead2 = walk_to(
            i2, at2, near2, far2, ahead2, tap2, step, tile, inside, last2, JUMPS
        )
        total = u0 * near0 + v0 * far0 + u1 * near1 + v1 * far1 + u2 * near2 + v2 * far2
        tl.store(rows_ptr + tl.cast(x, tl.int64) * D + out, total, inside)
        i0, u0, v0, i1, u1, v1 = i1, u1, v1, i2, u2, v2


@triton.jit
def upsampled_fwd_kernel(
    rows_ptr,
    bias_ptr,
    gate_weight_ptr,
    gate_bias_ptr,
    out_ptr,
    h,
    H,
    W,
    D,
    ROWS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    GATED: tl.constexpr,
    JUMPS: tl.constexpr,
):
    """From rows ``[N, h, 3, W, D]``: the gate (``GATED``, one block of channels), or relu(A) as a map."""
    ACC: tl.constexpr = rows_ptr.dtype.element_ty
    blocks = tl.cdiv(H, ROWS)
    n = tl.program_id(0) // blocks
    y0 = tl.program_id(0) % blocks * ROWS
    x0 = tl.program_id(1) * PIXELS
    c0 = tl.program_id(2) * CHANNELS
    x = x0 + tl.arange(0, PIXELS)
    d = c0 + tl.arange(0, CHANNELS)
    inside = (x < W)[:, None] & (d < D)[None, :]
    bias = tl.load(bias_ptr + d, d < D, other=0.0).to(ACC)[None, :]
    gate_weight = bias
    gate_bias = tl.zeros([], ACC)
    if GATED:
        gate_weight = tl.load(gate_weight_ptr + d, d < D, other=0.0).to(ACC)[None, :]
        gate_bias = tl.load(gate_bias_ptr).to(ACC)
    width = tl.cast(W, tl.int64) * D
    step = 3 * width
    tile = x[:, None] * D + d[None, :]
    end = tl.minimum(y0 + ROWS, H)
    # The same as along x.
    i0, i1, i2, remainder, u0, v0, u1, v1 = first_sources(y0, h, H, ACC)
    at0, at1, at2 = i0, i1, i2
    row0, last0 = rows_ptr + n * h * step, last_sample(end - 2, h, H)
    row1, last1 = row0 + width, last_sample(end - 1, h, H)
    row2, last2 = row1 + width, last_sample(end, h, H)
    near0, far0, ahead0 = start_walk(row0, step, tile, inside, at0, last0)
    near1, far1, ahead1 = start_walk(row1, step, tile, inside, at1, last1)
    near2, far2, ahead2 = start_walk(row2, step, tile, inside, at2, last2)
    for y in range(y0, end):
        i2, remainder = next_source(i2, remainder, h, H, JUMPS)
        u2, v2 = source_weights(y + 1, i2, remainder, h, H, ACC)
        at0, near0, far0, ahead0 = walk_to(
            i0, at0, near0, far0, ahead0, row0, step, tile, inside, last0, JUMPS
        )
        at1, near1, far1, ahead1 = walk_to(
            i1, at1, near1, far1, ahead1, row1, step, tile, inside, last1, JUMPS
        )
        at2, near2, far2, ahead2 = walk_to(
            i2, at2, near2, far2, ahead2, row2, step, tile, inside, last2, JUMPS
        )
        a = bias + u0 * near0 + v0 * far0 + u1 * near1 + v1 * far1 + u2 * near2 + v2 * far2
        i0, u0, v0, i1, u1, v1 = i1, u1, v1, i2, u2, v2
        hidden = relu(a)
        if GATED:
            gate = sigmoid(gate_bias + tl.sum(hidden * gate_weight, axis=1))
            tl.store(out_ptr + (tl.cast(n, tl.int64) * H + y) * W + x, gate, x < W)
        else:
            pointers = map_tile(
                out_ptr, n, y * W + x0, c0, H * W, D, PIXELS, CHANNELS, CHANNELS_LAST
            )
            tl.store(pointers, hidden.to(out_ptr.dtype.element_ty), inside)


def interpolated_rows(taps: Tensor, W: int) -> Tensor:
    """The first stage: ``[N, h, 3, W, D]``."""
    N, h, w, _, D = taps.shape
    rows = taps.new_empty(N, h, 3, W, D)
    if rows.numel():
        limits = settings.find("upsampled_rows_fwd", taps, CHANNELS_LAST)
        tile = tile_of(limits, N * h * 3, D, channels_last=True)
        launch(
            upsampled_rows_fwd_kernel,
            (cdiv(N * h * 3, tile.pixels), cdiv(W, limits.walk), cdiv(D, tile.channels)),
            taps,
            rows,
            N * h * 3,
            w,
            W,
            D,
            COLUMNS=limits.walk,
            ROWS=tile.pixels,
            CHANNELS=tile.channels,
            JUMPS=w > W,
            num_warps=tile.warps,
        )
    return rows


def column_tile(
    kernel: str, taps: Tensor, H: int, W: int, gated: bool, channels_last: bool
) -> tuple[Limits, Tile]:
    """Setting and tile of a second stage: for a gate, or for a map of the given format."""
    channels_last = gated or channels_last
    kernel += "_gated" if gated else ""
    limits = settings.find(kernel, taps, CHANNELS_LAST if channels_last else CONTIGUOUS)
    image = 0 if channels_last else H * W
    return limits, tile_of(limits, W, taps.shape[-1], channels_last, image)


def launch_upsampled(
    taps: Tensor,
    bias: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    out: Tensor,
    channels_last: bool,
) -> None:
    """Both stages of the forward, into out (a gate with gate_weight, else a map)."""
    N, h, _, _, D = taps.shape
    H, W = out.shape[2:]
    gated = gate_weight is not None
    limits, tile = column_tile("upsampled_fwd", taps, H, W, gated, channels_last)
    launch(
        upsampled_fwd_kernel,
        (N * cdiv(H, limits.walk), cdiv(W, tile.pixels), cdiv(D, tile.channels)),
        interpolated_rows(taps, W),
        bias,
        gate_weight,
        gate_bias,
        out,
        h,
        H,
        W,
        D,
        ROWS=limits.walk,
        PIXELS=tile.pixels,
        CHANNELS=tile.channels,
        CHANNELS_LAST=channels_last,
        GATED=gated,
        JUMPS=h > H,
        num_warps=tile.warps,
    )


def upsampled_gate(
    taps: Tensor, bias: Tensor, gate_weight: Tensor, gate_bias: Tensor, H: int, W: int
) -> Tensor:
    """The gate ``[N, 1, H, W]`` of taps ``[N, h, w, 9, D]``."""
    gate = taps.new_empty(taps.shape[0], 1, H, W)
    if gate.numel():
        launch_upsampled(taps, bias, gate_weight, gate_bias, gate, False)
    return gate


def upsampled_relu(taps: Tensor, bias: Tensor, H: int, W: int, channels_last: bool) -> Tensor:
    """relu(A) as a map ``[N, D, H, W]``."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty(
        (taps.shape[0], taps.shape[-1], H, W),
        dtype=bias.dtype,
        device=taps.device,
        memory_format=layout,
    )
    if out.numel():
        launch_upsampled(taps, bias, None, None, out, is_channels_last(out))
    return out
