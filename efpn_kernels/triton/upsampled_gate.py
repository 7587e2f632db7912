"""FBSM, the high gate of Eq. 6, commuted: nine low-resolution tap maps, interpolated and summed.

``A[y, x] = bias + sum_ky Y_ky(sum_kx X_kx(taps[ky, kx]))`` with the bilinear interpolations ``X_kx`` at
``x + kx - 1`` and ``Y_ky`` at ``y + ky - 1``. They are separable, so there are two stages:

1. rows ``[N, h, 3, W, D]``: for each low-resolution row and ky, the three X_kx summed;
2. A from six rows: a program walks down its columns and holds the rows in registers, loading two more
   only where one of the three taps enters the next low-resolution row.

Reading nine taps of four corners for every pixel would be 1.5 GB through L2 at D = 256 and 200 x 200;
the two stages read 0.1 GB. Nothing of D x H x W is stored. The adjoints gather: each low-resolution row
(then column) collects from the pixels that read it, in a fixed order, recomputing A.

At taps ``[1, 25, 25, 9, 256]`` to 200 x 200 on an H200 (4.3 TB/s, L2 about 5.5 TB/s, 50 MB):

======================  ==========================================  ===========  =======
kernel                  bytes (all of them fit L2)                  operations   time
======================  ==========================================  ===========  =======
rows, forward           read 5.8 MB, write 15.4 MB                  23 M         4 us
columns, forward        read 43 MB (rows, 2.8 times), write 0.2 MB  90 M         8 us
columns, backward       read 92 MB, write 15.4 MB                   330 M        20 us
rows, backward          read 35 MB, write 5.8 MB                    40 M         8 us
======================  ==========================================  ===========  =======
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import settings
from .launch import Tile, cdiv, is_channels_last, launch, tile_of
from .settings import CHANNELS_LAST, CONTIGUOUS, Limits
from .tile import map_tile, relu, sigmoid, tap_weights


@triton.jit
def upsampled_rows_fwd_kernel(
    taps_ptr, rows_ptr, w, W, D, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
):
    """rows ``[N h, 3, W, D]``: for each ky, taps ``[N h, w, 9, D]`` interpolated in x and summed over kx."""
    ACC: tl.constexpr = rows_ptr.dtype.element_ty
    row = tl.program_id(0) // 3
    ky = tl.program_id(0) % 3
    x = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    d = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (x < W)[:, None] & (d < D)[None, :]
    low = taps_ptr + row.to(tl.int64) * w * 9 * D + d[None, :]
    total = tl.zeros([PIXELS, CHANNELS], ACC)
    for kx in tl.static_range(3):
        j0, j1, w0, w1 = tap_weights(x + kx - 1, w, W, ACC)
        tap = 3 * ky + kx
        near = tl.load(low + (j0 * 9 + tap)[:, None] * D, inside, other=0.0)
        far = tl.load(low + (j1 * 9 + tap)[:, None] * D, inside, other=0.0)
        total += w0[:, None] * near + w1[:, None] * far
    out = rows_ptr + tl.program_id(0).to(tl.int64) * W * D
    tl.store(out + x[:, None] * D + d[None, :], total, inside)


@triton.jit
def tap_row(row_ptr, stride, inside, near, far, loaded, total, i0, w0, w1, h):
    """Adds one ky's share of A to total: the two low-resolution rows around the position of its tap.

    They stay in registers until the position enters another row; moving on by one loads only one.
    """
    if i0 != loaded:
        if i0 == loaded + 1:  # noqa: SIM108 - a branch, not a select
            near = far
        else:
            near = tl.load(row_ptr + i0 * stride, inside, other=0.0)
        far = tl.load(row_ptr + tl.minimum(i0 + 1, h - 1) * stride, inside, other=0.0)
    return near, far, i0, total + w0 * near + w1 * far


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
    row0 = rows_ptr + n * h * 3 * width + (x[:, None] * D + d[None, :])
    row1 = row0 + width
    row2 = row1 + width
    near0 = tl.zeros([PIXELS, CHANNELS], ACC)
    far0, near1, far1, near2, far2 = near0, near0, near0, near0, near0
    nowhere: tl.constexpr = -2
    at0, at1, at2 = nowhere, nowhere, nowhere
    # Sources of the positions y - 1, y and y + 1 of the three taps; each is computed once.
    i0, _, u0, v0 = tap_weights(y0 - 1, h, H, ACC)
    i1, _, u1, v1 = tap_weights(y0, h, H, ACC)
    for y in range(y0, tl.minimum(y0 + ROWS, H)):
        i2, _, u2, v2 = tap_weights(y + 1, h, H, ACC)
        a = tl.zeros([PIXELS, CHANNELS], ACC) + bias
        near0, far0, at0, a = tap_row(row0, 3 * width, inside, near0, far0, at0, a, i0, u0, v0, h)
        near1, far1, at1, a = tap_row(row1, 3 * width, inside, near1, far1, at1, a, i1, u1, v1, h)
        near2, far2, at2, a = tap_row(row2, 3 * width, inside, near2, far2, at2, a, i2, u2, v2, h)
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
        tile = tile_of(limits, W, D, channels_last=True)
        launch(
            upsampled_rows_fwd_kernel,
            (N * h * 3, cdiv(W, tile.pixels), cdiv(D, tile.channels)),
            taps,
            rows,
            w,
            W,
            D,
            PIXELS=tile.pixels,
            CHANNELS=tile.channels,
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
