"""Launch settings: fixed tables by architecture, kernel and class of shapes.

Nothing is tuned at run time, so a captured graph replays what ran before and two runs give the same
bits. A setting bounds a tile; a shape that is smaller takes the smallest power of two that holds it. The
class is the memory format of the map that a kernel walks, optionally with the bytes of its elements, and
then with how many there are: ``"channels_last"``, ``"channels_last/2"`` where bfloat16 wants another tile
than float32, ``"channels_last/2/2**24"`` for 2**24 elements and more, but fewer than 2**25. The most particular
name counts.

``DEFAULT`` aims at 16-byte accesses, 16 to 32 elements for each thread and no spills on any target; it
was set by hand after measurements on an H200. ``python -m benchmarks.kernels.triton_tune`` derives the tables
anew on a GPU and prints what to paste into ``BY_ARCHITECTURE``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor
from triton.runtime import driver


class Limits(NamedTuple):
    """Limits of a tile ``[pixels, channels]`` of a map.

    run: size along the axis whose stride is 1. elements: of the tile. warps: of a program. across: size
    along the other axis. walk: tiles, or image rows, that one program works through. per_warp: if given,
    elements of a warp, and warps is the most that there can be.
    """

    run: int
    elements: int
    warps: int
    across: int = 1 << 20
    walk: int = 1
    per_warp: int = 0


class Block(NamedTuple):
    """Limits of a block ``[rows, columns]`` of a matrix, or of a vector."""

    rows: int
    columns: int
    warps: int = 4


class Flat(NamedTuple):
    """A pass over elements: up to ``one_program`` of them in one launch, else ``programs`` at most."""

    block: int
    warps: int
    one_program: int
    programs: int


class Patch(NamedTuple):
    """A convolution's patch ``[rows, columns]`` of pixels, its blocks of channels, and the pipeline."""

    rows: int
    columns: int
    channels: int
    outputs: int
    warps: int
    stages: int


Setting = Limits | Block | Flat | Patch
Table = dict[str, dict[str, Setting]]

CONTIGUOUS, CHANNELS_LAST, ANY = "contiguous", "channels_last", "any"

ROW_SEGMENTS = 4
"""At most so many programs along an image row where a pass sums over pixels."""

REDUCTION_PROGRAMS = 2048
"""At most so many partial sums, for each channel block, in the first stage of a reduction."""

UPSAMPLED_PROGRAMS = 256
"""At most so many programs, over all images, in the high gate's backward, if its walks can be longer."""

UPSAMPLED_WALK = 40
"""At most so many low-resolution rows in one of them: longer ones save next to nothing."""

ROW_GROUP = 256
"""Rows that one program of a second stage adds up, where there are many."""

# Passes without a reduction over channels: rows of memory as long as they come.
_WIDE = {CONTIGUOUS: Limits(1024, 4096, 4), CHANNELS_LAST: Limits(256, 4096, 4)}
# A program keeps its pixels and loops over blocks of channels.
_DEEP = {CONTIGUOUS: Limits(64, 4096, 4), CHANNELS_LAST: Limits(256, 4096, 4)}
# Sums over pixels. One warp holds all rows of a channels_last tile: they stay in its registers.
_SUM = {CONTIGUOUS: Limits(1024, 4096, 4), CHANNELS_LAST: Limits(256, 2048, 1)}

DEFAULT: Table = {
    "context_add": _WIDE,
    "border_relu": _WIDE,
    "bias_relu": _WIDE,
    "mask_apply": _WIDE,
    "gate_apply": _DEEP,
    "low_gate_fwd": _DEEP,
    "mask_apply_bwd": _DEEP,
    "mask_apply_bwd_sums": {
        CONTIGUOUS: Limits(64, 4096, 8),
        CHANNELS_LAST: Limits(256, 2048, 1, walk=4),
    },
    "spatial_sum": _SUM,
    "border_sum": _SUM,
    # More pixels of few channels spill on sm_80.
    "border_sum_gated": {
        CONTIGUOUS: Limits(1024, 4096, 4),
        CHANNELS_LAST: Limits(256, 2048, 1, across=16),
    },
    "max_pool": {
        CONTIGUOUS: Limits(256, 2048, 4, across=8),
        CHANNELS_LAST: Limits(8, 2048, 4, across=256),
    },
    # The maps of the high gate's first stage lie like channels_last ones, whatever the format.
    "upsampled_rows_fwd": {CHANNELS_LAST: Limits(256, 256, 1, walk=10)},
    "upsampled_rows_bwd": {CHANNELS_LAST: Limits(128, 512, 1, walk=2)},
    # All channels in one program; those of a 200 x 200 image are then resident at once on an H200.
    "upsampled_fwd_gated": {CHANNELS_LAST: Limits(8192, 256, 32, walk=20, per_warp=256)},
    "upsampled_fwd": {
        CONTIGUOUS: Limits(32, 1024, 8, walk=20, per_warp=128),
        CHANNELS_LAST: Limits(256, 512, 4, walk=20, per_warp=128),
    },
    "upsampled_bwd_gated": {CHANNELS_LAST: Limits(256, 1024, 4, walk=5)},
    "upsampled_bwd": {
        CONTIGUOUS: Limits(32, 1024, 4, walk=5),
        CHANNELS_LAST: Limits(256, 1024, 4, walk=5),
    },
    "fuse_bwd": {ANY: Block(1, 256)},
    "row_sum": {ANY: Block(256, 16)},
    "split_sum": {ANY: Block(256, 16)},
    "class_sum": {ANY: Block(256, 16)},
    "project": {ANY: Block(8, 256)},
    "scatter_pooled": {ANY: Block(64, 16)},
    "project_bwd": {ANY: Block(8, 128)},
    # One warp, so that sums over the input channels stay in it.
    "border_bias": {ANY: Block(2, 256, warps=1)},
    "border_context_bwd": {ANY: Block(256, 4)},
    "border_weight_bwd": {ANY: Block(8, 128)},
    "dc_loss": {ANY: Flat(2048, warps=8, one_program=16384, programs=2048)},
    # 128 pixels are two warpgroups of Hopper's tensor cores; 64 channels of two bytes are one swizzled
    # row of shared memory; 256 outputs fit the registers of one program.
    "conv3x3": {ANY: Patch(8, 16, channels=64, outputs=256, warps=8, stages=3)},
}

BY_ARCHITECTURE: dict[str, Table] = {}
"""What differs from ``DEFAULT``: ``{"sm_90": {"context_add": {"channels_last/2": Limits(...)}}}``."""


def find(kernel: str, x: Tensor, shape_class: str = ANY) -> Setting:
    """The setting of a kernel for maps like ``x`` where it lies."""
    return _find(kernel, shape_class, x.element_size(), x.numel().bit_length(), architecture(x))


def names(shape_class: str, size: int, length: int) -> tuple[str, ...]:
    """The names of a class for elements of so many bytes, their number of ``length`` bits."""
    sized = f"{shape_class}/{size}"
    return f"{sized}/2**{length - 1}", sized, shape_class


@functools.cache
def _find(kernel: str, shape_class: str, size: int, length: int, target: str) -> Setting:
    for table in (BY_ARCHITECTURE.get(target, {}), DEFAULT):
        for name in names(shape_class, size, length):
            if name in table.get(kernel, {}):
                return table[kernel][name]
    raise KeyError(f"no launch setting for {kernel}, {shape_class}")


def architecture(x: Tensor) -> str:
    """``"sm_90"`` or ``"gfx942"``; ``""`` for tensors that only the interpreter takes."""
    if x.is_cuda:
        return _architecture_of(x.get_device())
    return "" if x.is_cpu else _current_architecture()


@functools.cache
def _architecture_of(device: int) -> str:
    return _current_architecture()  # kernels are launched with the device of their tensors current


def _current_architecture() -> str:
    target = driver.active.get_current_target()
    return f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch).split(":")[0]


@contextmanager
def replaced(kernel: str, shape_class: str, setting: Setting) -> Iterator[None]:
    """Another setting inside of the block, whatever the architecture: for tuning, and for tests."""
    tables = [table for table in (DEFAULT, *BY_ARCHITECTURE.values()) if kernel in table]
    before = [table[kernel] for table in tables]
    for table in tables:
        table[kernel] = {**table[kernel], shape_class: setting}
    _find.cache_clear()
    try:
        yield
    finally:
        for table, entry in zip(tables, before, strict=True):
            table[kernel] = entry
        _find.cache_clear()
