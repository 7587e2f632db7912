"""Reductions in a fixed order: per-program partial sums in one launch, their sum in a second one.

At ``[1, 256, 200, 200]`` in bfloat16, channels_last, counted from the launches
(``benchmarks/kernels/triton_roofline.md``), with the time that an H200 needs for the bytes. Of each, second
stages have 1.7 MB, 0.9 M operations and 0.4 us.

=================  =======  ==========  =======
kernel             bytes    operations  time
=================  =======  ==========  =======
``spatial_sum``    23.9 MB  15 M        5.6 us
``relu_backward``  64.9 MB  35 M        15.1 us
=================  =======  ==========  =======
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import settings
from .launch import (
    accumulator,
    cdiv,
    chunks,
    is_channels_last,
    launch,
    map_tile_of,
    power_of_2,
)
from .settings import REDUCTION_PROGRAMS, ROW_GROUP
from .tile import map_tile, relu_gradient


@triton.jit
def sum_rows(partial_ptr, first, last, K, column, ROWS: tl.constexpr, ACC: tl.constexpr):
    """Sum of the rows ``[first, last)`` of a matrix with ``K`` columns, for some columns.

    The base is 64-bit: with a row of partial sums for each row of an image a matrix can be as large as a
    map that is one pixel wide.
    """
    total = tl.zeros([ROWS, column.shape[0]], ACC)
    for row in range(first, last, ROWS):
        r = tl.arange(0, ROWS)
        pointers = partial_ptr + tl.cast(row, tl.int64) * K + (r[:, None] * K + column[None, :])
        inside = (row + r < last)[:, None] & (column < K)[None, :]
        total += tl.load(pointers, inside, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def row_sum_kernel(
    partial_ptr, out_ptr, R, K, GROUP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """out ``[B, cdiv(R, GROUP), K]``: sums over groups of rows of partial ``[B, R, K]``."""
    b = tl.program_id(2).to(tl.int64)
    group = tl.program_id(1)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    first = group * GROUP
    last = tl.minimum(first + GROUP, R)
    ACC: tl.constexpr = out_ptr.dtype.element_ty
    total = sum_rows(partial_ptr + b * R * K, first, last, K, column, ROWS, ACC)
    out = out_ptr + (b * tl.num_programs(1) + group) * K + column
    tl.store(out, total, column < K)


def row_groups(partial: Tensor, group: int) -> Tensor:
    """``[B, R, K] -> [B, cdiv(R, group), K]``."""
    B, R, K = partial.shape
    out = partial.new_empty(B, cdiv(R, group), K)
    if out.numel():
        limits = settings.find("row_sum", partial)
        columns = power_of_2(K, limits.columns)
        launch(
            row_sum_kernel,
            (cdiv(K, columns), out.shape[1], B),
            partial,
            out,
            R,
            K,
            GROUP=group,
            ROWS=min(group, limits.rows),
            COLUMNS=columns,
            num_warps=limits.warps,
        )
    return out


def row_sum(partial: Tensor) -> Tensor:
    """``[B, R, K] -> [B, K]``, in two launches where there are many rows."""
    R = partial.shape[1]
    if R == 0:
        return partial.new_zeros(partial.shape[0], partial.shape[2])
    if R > 2 * ROW_GROUP:
        partial = row_groups(partial, ROW_GROUP)
    return row_groups(partial, power_of_2(partial.shape[1], 2**20))[:, 0]


@triton.jit
def split_sum_kernel(
    partial_ptr,
    out0_ptr,
    out1_ptr,
    out2_ptr,
    R,
    K,
    split0,
    split1,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sums over the rows of partial ``[R, K]``, into one tensor for each range of columns."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = sum_rows(partial_ptr, 0, R, K, column, ROWS, out0_ptr.dtype.element_ty)
    tl.store(out0_ptr + column, total, column < split0)
    tl.store(out1_ptr + (column - split0), total, (column >= split0) & (column < split1))
    tl.store(out2_ptr + (column - split1), total, (column >= split1) & (column < K))


def split_sum(partial: Tensor, *widths: int) -> tuple[Tensor, ...]:
    """Sums over the rows of ``[R, K]``: at most three tensors of ``widths`` columns, together K."""
    if partial.shape[0] > 2 * ROW_GROUP:
        partial = row_groups(partial[None], ROW_GROUP)[0]
    R, K = partial.shape
    outs = tuple(partial.new_empty(width) for width in widths)
    splits = [sum(widths[:i]) for i in range(1, 3)]
    limits = settings.find("split_sum", partial)
    columns = power_of_2(K, limits.columns)
    launch(
        split_sum_kernel,
        (cdiv(K, columns),),
        partial,
        *(outs + outs[-1:] * 2)[:3],
        R,
        K,
        *splits,
        ROWS=power_of_2(R, limits.rows),
        COLUMNS=columns,
        num_warps=limits.warps,
    )
    return outs


@triton.jit
def spatial_sum_kernel(
    x_ptr,
    out_ptr,
    grad_ptr,
    partial_ptr,
    HW,
    C,
    tiles,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    RELU: tl.constexpr,
):
    """partial ``[N, chunks, C]``: sums of a chunk's pixels of x.

    With ``RELU``, of x where out is positive, which is also stored in grad.
    """
    n, chunk = tl.program_id(0), tl.program_id(1)
    c0 = tl.program_id(2) * CHANNELS
    c = c0 + tl.arange(0, CHANNELS)
    total = tl.zeros([PIXELS, CHANNELS], partial_ptr.dtype.element_ty)
    for tile in range(chunk * tiles, (chunk + 1) * tiles):
        p0 = tile * PIXELS
        inside = (p0 + tl.arange(0, PIXELS) < HW)[:, None] & (c < C)[None, :]
        pointers = map_tile(x_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
        x = tl.load(pointers, inside, other=0.0)
        if RELU:
            pointers = map_tile(out_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
            x = relu_gradient(tl.load(pointers, inside, other=0.0), x).to(x.dtype)
            pointers = map_tile(grad_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
            tl.store(pointers, x, inside)
        total += x.to(total.dtype)
    row = n.to(tl.int64) * tl.num_programs(1) + chunk
    tl.store(partial_ptr + row * C + c, tl.sum(total, axis=0), c < C)


def chunk_sums(x: Tensor, out: Tensor | None, grad: Tensor | None) -> Tensor:
    """The first stage: partial sums ``[N, chunks, C]``."""
    N, C, H, W = x.shape
    channels_last = is_channels_last(x)
    tile = map_tile_of("spatial_sum", x)
    blocks = cdiv(C, tile.channels)
    tiles, count = chunks(H * W, tile.pixels, REDUCTION_PROGRAMS // max(N * blocks, 1))
    partial = x.new_empty(N, count, C, dtype=accumulator(x))
    if partial.numel():
        launch(
            spatial_sum_kernel,
            (N, count, blocks),
            x,
            out,
            grad,
            partial,
            H * W,
            C,
            tiles,
            PIXELS=tile.pixels,
            CHANNELS=tile.channels,
            CHANNELS_LAST=channels_last,
            RELU=out is not None,
            num_warps=tile.warps,
        )
    return partial


def spatial_sum(x: Tensor) -> Tensor:
    """``[N, C, H, W] -> [N, C]`` in the accumulation dtype."""
    return row_sum(chunk_sums(x, None, None))


def relu_backward(grad_out: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """``grad_out`` where the ReLU let it pass, and its sum ``[C]`` over images and pixels."""
    grad = torch.empty_like(grad_out)
    partial = chunk_sums(grad_out, out, grad)
    (grad_bias,) = split_sum(partial.flatten(0, 1), grad_out.shape[1])
    return grad, grad_bias
