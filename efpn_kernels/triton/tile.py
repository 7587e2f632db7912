"""Device functions shared by the kernels: tiles of a map, the sigmoid and its slope.

A map ``[N, C, H, W]`` is seen as ``[N, HW, C]`` (channels_last) or ``[N, C, HW]`` (contiguous). Every
kernel works on tiles ``[PIXELS, CHANNELS]`` of one image, whatever the format: only the strides
differ, and Triton lays the threads along the one that is 1.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def relu(x):
    """max(x, 0) as torch.relu: NaN stays NaN, which a plain tl.maximum turns into 0."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def map_tile(
    map_ptr,
    n,
    p0,
    c0,
    HW,
    C,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Pointers ``[PIXELS, CHANNELS]`` to pixels from ``p0`` and channels from ``c0`` of image ``n``.

    The base is 64-bit; offsets inside of a tile fit 32 bits (``launch.tile_of`` sees to it), as do the pixels
    of an image.
    """
    p = tl.arange(0, PIXELS)[:, None]
    c = tl.arange(0, CHANNELS)[None, :]
    n = tl.cast(n, tl.int64)
    if CHANNELS_LAST:
        pointers = map_ptr + ((n * HW + p0) * C + c0) + (p * C + c)
    else:
        pointers = map_ptr + ((n * C + c0) * HW + p0) + (c * HW + p)
    return pointers


@triton.jit
def gather_range(i, low, high):
    """The half-open range of positions of ``high`` that can read low position ``i``."""
    first = tl.maximum(((2 * i - 1) * high - low) // (2 * low), 0)
    last = tl.minimum(((2 * i + 3) * high + low - 1) // (2 * low), high)
    return first, last


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def gate_pair(x):
    """``sigmoid(x)`` and ``sigmoid(-x)``, each to its own precision, also where it is next to nothing."""
    ratio = tl.exp(-tl.abs(x))
    larger = 1 / (1 + ratio)
    smaller = ratio * larger
    return tl.where(x > 0, larger, smaller), tl.where(x > 0, smaller, larger)


@triton.jit
def gate_slope(gate):
    """The sigmoid's derivative where it is ``gate``."""
    return gate * (1 - gate)


@triton.jit
def relu_gradient(out, grad):
    """The gradient before a ReLU with the result ``out``; NaN lets it pass, as PyTorch's does."""
    return tl.where(out <= 0, 0.0, grad)


@triton.jit
def border_class(position, size):
    """0 for the first position of an axis, 2 for the last (where it is not the first), else 1."""
    return tl.where(position == 0, 0, tl.where(position == size - 1, 2, 1))
