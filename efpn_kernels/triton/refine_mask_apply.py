"""FBSM: separate with a given mask (Eq. 5), and its backward; bytes and times stand in ``gate_apply``."""

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
    map_class,
    map_tile_of,
)
from .reduce import row_sum
from .tile import gate_slope, map_tile


@triton.jit
def load_mask(
    mask_ptr,
    n,
    p0,
    c0,
    HW,
    C,
    inside,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    GATED: tl.constexpr,
):
    """A mask as a tile ``[PIXELS, 1]`` of a gate or ``[PIXELS, CHANNELS]`` of a map."""
    if GATED:
        p = p0 + tl.arange(0, PIXELS)
        mask = tl.load(mask_ptr + n * HW + p, p < HW, other=0.0)[:, None]
    else:
        pointers = map_tile(mask_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
        mask = tl.load(pointers, inside, other=0.0)
    return mask


@triton.jit
def mask_apply_kernel(
    p_low_ptr,
    context_ptr,
    mask_ptr,
    x_ptr,
    HW,
    C,
    ACC: tl.constexpr,
    GATED: tl.constexpr,
    HAS_CONTEXT: tl.constexpr,
    MERGE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """x ``= (p_low + context) mask``, or with ``MERGE`` x ``+= p_low mask``."""
    p0 = tl.program_id(0) * PIXELS
    c0 = tl.program_id(1) * CHANNELS
    n = tl.program_id(2).to(tl.int64)
    c = c0 + tl.arange(0, CHANNELS)
    inside = (p0 + tl.arange(0, PIXELS) < HW)[:, None] & (c < C)[None, :]
    pointers = map_tile(p_low_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
    total = tl.load(pointers, inside, other=0.0).to(ACC)
    mask = load_mask(mask_ptr, n, p0, c0, HW, C, inside, PIXELS, CHANNELS, CHANNELS_LAST, GATED)
    if HAS_CONTEXT:
        total += tl.load(context_ptr + n * C + c, c < C, other=0.0)[None, :]
    total *= mask.to(ACC)
    pointers = map_tile(x_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
    if MERGE:
        total += tl.load(pointers, inside, other=0.0).to(ACC)
    tl.store(pointers, total.to(x_ptr.dtype.element_ty), inside)


def launch_mask_apply(
    p_low: Tensor, context: Tensor | None, mask: Tensor, x: Tensor, merge: bool
) -> None:
    """The pass of :func:`mask_apply` and :func:`mask_merge_`, into x."""
    _, C, H, W = p_low.shape
    launch_map(
        mask_apply_kernel,
        "mask_apply",
        p_low,
        p_low,
        context,
        mask,
        x,
        H * W,
        C,
        ACC=accumulator_type(p_low),
        GATED=is_gate(mask, p_low),
        HAS_CONTEXT=context is not None,
        MERGE=merge,
    )


def is_gate(mask: Tensor, p_low: Tensor) -> bool:
    """Whether a mask is one for all channels; where C is 1, a gate by its dtype or just as good."""
    return mask.shape[1] == 1 and (p_low.shape[1] != 1 or mask.dtype == accumulator(p_low))


def mask_apply(p_low: Tensor, context: Tensor | None, mask: Tensor) -> Tensor:
    """``(p_low + context) mask`` for a gate ``[N, 1, H, W]`` or a map ``[N, C, H, W]``."""
    x = torch.empty_like(p_low)
    launch_mask_apply(p_low, context, mask, x, merge=False)
    return x


def mask_merge_(grad_p_low: Tensor, grad_x: Tensor, mask: Tensor) -> None:
    """``grad_p_low += grad_x mask``, in place."""
    launch_mask_apply(grad_x, None, mask, grad_p_low, merge=True)


@triton.jit
def mask_apply_bwd_kernel(
    grad_x_ptr,
    p_low_ptr,
    context_ptr,
    mask_ptr,
    grad_logit_ptr,
    partial_ptr,
    HW,
    C,
    tiles,
    ACC: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    GATED: tl.constexpr,
    HAS_CONTEXT: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
):
    """grad_logit ``= mask (1 - mask) grad_x (p_low + context)``, summed over channels with ``GATED``.

    partial ``[N, chunks, C]`` sums ``grad_x mask`` over the pixels of a program: one tile, or several
    where all channels are in one block of the tile and their sums stay in registers.
    """
    chunk = tl.program_id(0)
    n = tl.program_id(1).to(tl.int64)
    context_sum = tl.zeros([CHANNELS], ACC)
    partial_row = (n * tl.num_programs(0) + chunk) * C
    for tile in range(chunk * tiles, (chunk + 1) * tiles):
        p0 = tile * PIXELS
        p = p0 + tl.arange(0, PIXELS)
        logit_sum = tl.zeros([PIXELS, CHANNELS], ACC)
        for c0 in range(0, C, CHANNELS):
            c = c0 + tl.arange(0, CHANNELS)
            inside = (p < HW)[:, None] & (c < C)[None, :]
            pointers = map_tile(grad_x_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
            grad_x = tl.load(pointers, inside, other=0.0).to(ACC)
            pointers = map_tile(p_low_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST)
            total = tl.load(pointers, inside, other=0.0).to(ACC)
            mask = load_mask(
                mask_ptr, n, p0, c0, HW, C, inside, PIXELS, CHANNELS, CHANNELS_LAST, GATED
            ).to(ACC)
            if HAS_CONTEXT:
                total += tl.load(context_ptr + n * C + c, c < C, other=0.0)[None, :]
                block_sum = tl.sum(grad_x * mask, axis=0)
                if ONE_BLOCK:
                    context_sum += block_sum
                else:
                    tl.store(partial_ptr + partial_row + c, block_sum, c < C)
            if GATED:
                logit_sum += grad_x * total
            else:
                grad_logit = gate_slope(mask) * grad_x * total
                pointers = map_tile(
                    grad_logit_ptr, n, p0, c0, HW, C, PIXELS, CHANNELS, CHANNELS_LAST
                )
                tl.store(pointers, grad_logit.to(grad_logit_ptr.dtype.element_ty), inside)
        if GATED:
            at = n * HW + p
            mask = tl.load(mask_ptr + at, p < HW, other=0.0)
            tl.store(grad_logit_ptr + at, gate_slope(mask) * tl.sum(logit_sum, axis=1), p < HW)
    if HAS_CONTEXT and ONE_BLOCK:
        c = tl.arange(0, CHANNELS)
        tl.store(partial_ptr + partial_row + c, context_sum, c < C)


def mask_apply_backward(
    grad_x: Tensor, p_low: Tensor, context: Tensor | None, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """grad_logit (like mask) and grad_context ``[N, C]`` (no elements without context)."""
    N, C, H, W = p_low.shape
    grad_logit = torch.empty_like(mask)
    channels_last = is_channels_last(p_low)
    kernel = "mask_apply_bwd" if context is None else "mask_apply_bwd_sums"
    tile = map_tile_of(kernel, p_low)
    one_block = tile.channels >= C
    tiles = settings.find(kernel, p_low, map_class(p_low)).walk if one_block else 1
    count = cdiv(H * W, tile.pixels * tiles)
    partial = None if context is None else context.new_empty(N, count, C)
    if p_low.numel():
        launch(
            mask_apply_bwd_kernel,
            (count, N),
            grad_x,
            p_low,
            context,
            mask,
            grad_logit,
            partial,
            H * W,
            C,
            tiles,
            ACC=accumulator_type(p_low),
            PIXELS=tile.pixels,
            CHANNELS=tile.channels,
            CHANNELS_LAST=channels_last,
            GATED=is_gate(mask, p_low),
            HAS_CONTEXT=context is not None,
            ONE_BLOCK=one_block,
            num_warps=tile.warps,
        )
    if partial is None:
        return grad_logit, p_low.new_empty(0, dtype=accumulator(p_low))
    return grad_logit, row_sum(partial)
