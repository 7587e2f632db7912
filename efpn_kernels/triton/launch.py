"""Launches, and the tiles that shapes take from the tables of ``settings``."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.runtime import JITFunction, driver

from . import settings
from .settings import CHANNELS_LAST, CONTIGUOUS, Limits

_compiled: dict[tuple, tuple[CompiledKernel, tuple]] = {}


def launch(kernel: JITFunction, grid: tuple[int, ...], *args: object, **options: object) -> None:
    """``kernel[grid](*args, **options)`` on the current stream, with less work on the host.

    Triton's own launch derives the specialisation of every argument anew, which takes longer than most
    of these kernels run. Here what it compiled is looked up by what it specialises on: dtypes, 16-byte
    alignment, whether an integer is 1, a multiple of 16 or beyond 32 bits, and on AMD whether 32 bits
    reach all of a tensor's storage.

    Args:
        kernel: the kernel.
        grid: one to three sizes.
        args: tensors, numbers and None for the parameters that are no constexpr, in their order.
        options: the constexpr parameters in their order, and options of the compiler.
    """
    tensor = next(a for a in args if isinstance(a, Tensor))
    if not tensor.is_cuda:  # interpreted, or compiled for a GPU that is not here
        kernel[grid](*args, **options)
        return
    device = tensor.get_device()
    key = (id(kernel), device, *options.values(), *[_specialization(a) for a in args])
    found = _compiled.get(key)
    if found is None:
        compiled = kernel[grid](*args, **options)
        constants = tuple(options[name] for name in kernel.arg_names[len(args) :])
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


def specialization_on_amd(argument: object) -> object:
    """The same and, of a tensor, whether its storage is within the reach of buffer instructions."""
    if isinstance(argument, Tensor):
        within_reach = argument.untyped_storage().nbytes() <= 0x7FFFFFFF
        return *specialization(argument), within_reach
    return specialization(argument)


_specialization = specialization if torch.version.hip is None else specialization_on_amd


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


def map_class(x: Tensor) -> str:
    """The class of settings for a map."""
    return CHANNELS_LAST if is_channels_last(x) else CONTIGUOUS


def tile_of(
    limits: Limits, pixels: int, channels: int, channels_last: bool, image: int = 0
) -> Tile:
    """The tile for maps of so many pixels (of an image or of a row) and channels.

    image: the pixels of a whole image of a contiguous map, between one channel and the next: offsets
    inside of a tile are to fit 32 bits.
    """
    run, across = (channels, pixels) if channels_last else (pixels, channels)
    run = power_of_2(run, limits.run)
    across = power_of_2(across, min(max(limits.elements // run, 1), limits.across))
    while across > 1 and across * image >= 2**31:
        across //= 2
    warps = limits.warps
    if limits.per_warp:
        warps = min(max(run * across // limits.per_warp, 1), warps)
    return Tile(across, run, warps) if channels_last else Tile(run, across, warps)


def map_tile_of(kernel: str, x: Tensor, pixels: int | None = None) -> Tile:
    """The tile of a kernel that walks the map ``x``: all pixels of an image, unless said otherwise."""
    _, C, H, W = x.shape
    limits = settings.find(kernel, x, map_class(x))
    channels_last = is_channels_last(x)
    image = 0 if channels_last else H * W
    return tile_of(limits, H * W if pixels is None else pixels, C, channels_last, image)


def launch_map(kernel: JITFunction, name: str, x: Tensor, *args: object, **options: object) -> None:
    """Launch a pass over the tiles of the map ``x``: a program for each, in grid (pixels, channels, N).

    The tile comes from the settings of ``name``; PIXELS, CHANNELS and CHANNELS_LAST are the kernel's last
    constexpr parameters, ``options`` those before. A map without elements is no launch.
    """
    if not x.numel():
        return
    N, C, H, W = x.shape
    tile = map_tile_of(name, x)
    launch(
        kernel,
        (cdiv(H * W, tile.pixels), cdiv(C, tile.channels), N),
        *args,
        **options,
        PIXELS=tile.pixels,
        CHANNELS=tile.channels,
        CHANNELS_LAST=is_channels_last(x),
        num_warps=tile.warps,
    )


def chunks(positions: int, tile: int, programs: int) -> tuple[int, int]:
    """Split ``positions`` into at most ``programs`` chunks of whole tiles: ``(tiles each, chunks)``."""
    tiles = cdiv(positions, tile)
    each = cdiv(tiles, max(programs, 1))
    return each, cdiv(tiles, max(each, 1))
