"""Launch settings: fixed functions of the shape and the memory format, the same in every run.

Nothing is tuned at run time, so a captured graph replays what ran before and two runs give the same
bits. Sizes aim at 16-byte accesses and 16 to 32 elements for each thread.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Tile(NamedTuple):
    """A tile ``[pixels, channels]`` and the warps that work on it."""

    pixels: int
    channels: int
    warps: int


def power_of_2(size: int, limit: int) -> int:
    """The smallest power of two that holds ``size``, at most ``limit``."""
    return min(triton.next_power_of_2(max(size, 1)), limit)


def is_channels_last(x: Tensor) -> bool:
    """Maps that are contiguous both ways count as contiguous."""
    return not x.is_contiguous()


def accumulator(x: Tensor) -> torch.dtype:
    """The dtype of accumulation for ``x``."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def accumulator_type(x: Tensor) -> tl.dtype:
    """The same as a Triton type."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def alignment(size: int) -> int:
    """The largest power of two, at most 16, that divides ``size``."""
    return math.gcd(size, 16)


def wide_tile(C: int, HW: int, channels_last: bool) -> Tile:
    """For passes without a reduction over channels: rows of memory as long as they come."""
    if channels_last:
        channels = power_of_2(C, 256)
        return Tile(power_of_2(HW, 4096 // channels), channels, 4)
    pixels = power_of_2(HW, 1024)
    return Tile(pixels, power_of_2(C, 4096 // pixels), 4)


def deep_tile(C: int, HW: int, channels_last: bool) -> Tile:
    """For passes that reduce over channels: a program keeps its pixels and loops over channels."""
    if channels_last:
        channels = power_of_2(C, 256)
        return Tile(power_of_2(HW, 4096 // channels), channels, 4)
    pixels = power_of_2(HW, 64)
    return Tile(pixels, power_of_2(C, 4096 // pixels), 4)


def gate_tile(C: int, HW: int, channels_last: bool) -> Tile:
    """For the low gate: few pixels, so that few tiles touch a border and load it pixel by pixel."""
    if channels_last:
        channels = power_of_2(C, 256)
        return Tile(power_of_2(HW, 2048 // channels), channels, 4)
    return deep_tile(C, HW, channels_last)


def sum_tile(C: int, pixels: int, channels_last: bool) -> Tile:
    """For passes that sum over pixels (of an image or of a row), adding up tile after tile.

    One warp holds all rows of a channels_last tile, so that sums over pixels stay in its registers.
    """
    if channels_last:
        channels = power_of_2(C, 256)
        return Tile(power_of_2(pixels, 2048 // channels), channels, 1)
    pixels = power_of_2(pixels, 1024)
    return Tile(pixels, power_of_2(C, 4096 // pixels), 4)


def both_sums_tile(C: int, HW: int, channels_last: bool) -> Tile:
    """For passes that sum over channels and over pixels."""
    if channels_last:
        return sum_tile(C, HW, channels_last)
    return deep_tile(C, HW, channels_last)._replace(warps=8)


def chunks(positions: int, tile: int, programs: int) -> tuple[int, int]:
    """Split ``positions`` into at most ``programs`` chunks of whole tiles: ``(tiles each, chunks)``."""
    tiles = triton.cdiv(positions, tile)
    each = triton.cdiv(tiles, max(programs, 1))
    return each, triton.cdiv(tiles, max(each, 1))


ROW_SEGMENTS = 4
"""At most so many programs along an image row where a pass sums over pixels."""

REDUCTION_PROGRAMS = 2048
"""At most so many partial sums, for each channel block, in the first stage of a reduction."""
