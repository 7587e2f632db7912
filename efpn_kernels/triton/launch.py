"""Launches, and their settings: fixed functions of the shape and the memory format.

Nothing is tuned at run time, so a captured graph replays what ran before and two runs give the same
bits. Sizes aim at 16-byte accesses and 16 to 32 elements for each thread.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.runtime import JITFunction, driver

_compiled: dict[tuple, tuple[CompiledKernel, tuple]] = {}


def launch(kernel: JITFunction, grid: tuple[int, ...], *args: object, **settings: object) -> None:
    """``kernel[grid](*args, **settings)`` on the current stream, with less work on the host.

    Triton's own launch derives the specialisation of every argument anew, which takes longer than most
    of these kernels run. Here what it compiled is looked up by what it specialises on: dtypes, 16-byte
    alignment, and whether an integer is 1, a multiple of 16 or beyond 32 bits.

    Args:
        kernel: the kernel.
        grid: one to three sizes.
        args: tensors, numbers and None for the parameters that are no constexpr, in their order.
        settings: the constexpr parameters in their order, and options of the compiler.
    """
    tensor = next(a for a in args if isinstance(a, Tensor))
    if not tensor.is_cuda:  # interpreted, or compiled for a GPU that is not here
        kernel[grid](*args, **settings)
        return
    device = tensor.get_device()
    key = (id(kernel), device, *settings.values(), *[specialization(a) for a in args])
    found = _compiled.get(key)
    if found is None:
        compiled = kernel[grid](*args, **settings)
        constants = tuple(settings[name] for name in kernel.arg_names[len(args) :])
        _compiled[key] = compiled, constants
        return
    compiled, constants = found
    compiled.run(
        *(*grid, 1, 1)[:3],
        driver.active.get_current_stream(device),
        compiled.function,
        compiled.packed_metadata,
        None,
        None,
        None,
        *args,
        *constants,
    )


def specialization(argument: object) -> object:
    """What Triton compiles anew for in a runtime argument."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if isinstance(argument, int):
        return argument == 1, argument % 16 == 0, argument > 0x7FFFFFFF
    return type(argument)


class Tile(NamedTuple):
    """A tile ``[pixels, channels]`` and the warps that work on it."""

    pixels: int
    channels: int
    warps: int


def cdiv(size: int, step: int) -> int:
    """The number of steps that cover ``size``."""
    return -(-size // step)


def power_of_2(size: int, limit: int) -> int:
    """The smallest power of two that holds ``size``, at most ``limit``."""
    return min(1 << max(size - 1, 0).bit_length(), limit)


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


def sum_tile(C: int, pixels: int, channels_last: bool) -> Tile:
    """For passes that sum over pixels (of an image or of a row), adding up tile after tile.

    One warp holds all rows of a channels_last tile, so that sums over pixels stay in its registers.
    """
    if channels_last:
        channels = power_of_2(C, 256)
        return Tile(power_of_2(pixels, 2048 // channels), channels, 1)
    pixels = power_of_2(pixels, 1024)
    return Tile(pixels, power_of_2(C, 4096 // pixels), 4)


def both_sums_tile(C: int, HW: int, channels_last: bool, over_pixels: bool) -> Tile:
    """For passes that sum over channels and, if asked for, over pixels."""
    if channels_last and over_pixels:
        return sum_tile(C, HW, channels_last)
    tile = deep_tile(C, HW, channels_last)
    return tile._replace(warps=8) if over_pixels else tile


def chunks(positions: int, tile: int, programs: int) -> tuple[int, int]:
    """Split ``positions`` into at most ``programs`` chunks of whole tiles: ``(tiles each, chunks)``."""
    tiles = cdiv(positions, tile)
    each = cdiv(tiles, max(programs, 1))
    return each, cdiv(tiles, max(each, 1))


ROW_SEGMENTS = 4
"""At most so many programs along an image row where a pass sums over pixels."""

REDUCTION_PROGRAMS = 2048
"""At most so many partial sums, for each channel block, in the first stage of a reduction."""
