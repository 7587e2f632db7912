"""Memory formats of maps: the one place that decides them, for real tensors and fake ones alike."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """The format that kernels read a dense map in: contiguous where both hold."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def dense(x: Tensor) -> Tensor:
    """``x [N, C, H, W]`` itself if it is contiguous or channels_last, else a contiguous copy."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def as_format(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the memory format of the dense map ``like``; no copy where it has it."""
    return x.contiguous(memory_format=memory_format(like))


def empty_map(like: Tensor, channels: int | None = None) -> Tensor:
    """An empty map of the format, size and dtype of ``like``, with other channels if given."""
    n, c, h, w = like.shape
    return torch.empty(
        (n, c if channels is None else channels, h, w),
        dtype=like.dtype,
        device=like.device,
        memory_format=memory_format(like),
    )
