"""Walks along an axis of bilinear upsampling, where three taps read the positions p - 1, p and p + 1.

A walk keeps the two samples that each tap lies between in registers. It loads one more for a tap that
enters the next cell, and its adjoint stores one more sum. With ``JUMPS``, where there are more samples than
positions, a tap may skip some.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def source_of(q, low, high):
    """The sample ``i`` that position ``q`` reads with ``i + 1``, and ``2 high`` times what lies between.

    That is below zero where the first sample is all that is read; ``q`` may be one off the image.
    """
    numerator = (2 * q + 1) * low - high
    i = tl.maximum(numerator, 0) // (2 * high)
    return i, numerator - i * (2 * high)


@triton.jit
def next_source(i, remainder, low, high, JUMPS: tl.constexpr):
    """The source of the next position; it is at most one sample further on without ``JUMPS``."""
    remainder += 2 * low
    if JUMPS:
        samples = tl.maximum(remainder, 0) // (2 * high)
    else:
        samples = tl.cast(remainder >= 2 * high, tl.int32)
    # One position off the image, this may be one sample off, too.
    return tl.minimum(i + samples, low - 1), remainder - samples * (2 * high)


@triton.jit
def source_weights(q, i, remainder, low, high, ACC: tl.constexpr):
    """The weights of ``i`` and ``i + 1``: none of ``i + 1`` if ``i`` is the last, none outside."""
    upper = tl.cast(tl.maximum(remainder, 0), ACC) / tl.cast(2 * high, ACC)
    upper = tl.where(i < low - 1, upper, 0.0)
    inside = tl.cast((q >= 0) & (q < high), ACC)
    return (1 - upper) * inside, upper * inside


@triton.jit
def first_sources(q, low, high, ACC: tl.constexpr):
    """For a walk from ``q`` on: sources of ``q - 1`` and ``q``, and that of ``q`` to go on from."""
    i0, remainder0 = source_of(q - 1, low, high)
    i1, remainder1 = source_of(q, low, high)
    u0, v0 = source_weights(q - 1, i0, remainder0, low, high, ACC)
    u1, v1 = source_weights(q, i1, remainder1, low, high, ACC)
    return i0, i1, i1, remainder1, u0, v0, u1, v1


@triton.jit
def last_sample(q, low, high):
    """The last sample that positions up to ``q`` read."""
    return tl.minimum(source_of(tl.minimum(q, high - 1), low, high)[0] + 1, low - 1)


@triton.jit
def start_walk(samples, step, tile, inside, at, last):
    """The samples ``at``, ``at + 1`` and ``at + 2`` of one tap, none beyond ``last``."""
    here = samples + at * step
    near = tl.load(here + tile, inside, other=0.0)
    far = tl.load(here + step + tile, inside & (at < last), other=0.0)
    ahead = tl.load(here + 2 * step + tile, inside & (at + 1 < last), other=0.0)
    return near, far, ahead


@triton.jit
def walk_to(i, at, near, far, ahead, samples, step, tile, inside, last, JUMPS: tl.constexpr):
    """Moves one tap on to sample ``i``: near, far and ahead are the samples at, at + 1 and at + 2.

    The sample that is loaded is not needed before the walk enters the next cell.
    """
    if at < i:
        here = samples + i * step
        near = far
        far = ahead
        if JUMPS and i > at + 1:
            near = tl.load(here + tile, inside, other=0.0)
            far = tl.load(here + step + tile, inside & (i < last), other=0.0)
        ahead = tl.load(here + 2 * step + tile, inside & (i + 1 < last), other=0.0)
        at = i
    return at, near, far, ahead


@triton.jit
def gather_to(
    i,
    at,
    near,
    far,
    low,
    high,
    total,
    rows,
    grads,
    last,
    strip,
    JUMPS: tl.constexpr,
    SUM: tl.constexpr,
):
    """Moves one tap on to row ``i``: near, far are the rows at, at + 1, and low, high what they collect.

    A row that it leaves is stored if it belongs to the strip, and then, with ``SUM``, added to total.
    """
    begin, end, step, tile, inside, scale = strip
    if at < i:
        own = (at >= begin) & (at < end)
        tl.store(grads + at * step + tile, low * scale, inside & own)
        if SUM:
            total += tl.cast(own, low.dtype) * low
        low = high
        near = far
        if JUMPS and i > at + 1:
            own = (at + 1 >= begin) & (at + 1 < end)
            tl.store(grads + (at + 1) * step + tile, high * scale, inside & own)
            if SUM:
                total += tl.cast(own, low.dtype) * high
            low = tl.zeros_like(high)
            near = tl.load(rows + i * step + tile, inside & (i <= last), other=0.0)
        high = tl.zeros_like(high)
        far = tl.load(rows + (i + 1) * step + tile, inside & (i < last), other=0.0)
        at = i
    return at, near, far, low, high, total
