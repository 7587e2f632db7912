"""Memory formats of maps, for real tensors and fake ones alike."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether results for the map ``x`` are channels_last: where ``x`` is, and not contiguous as well."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def memory_format(channels_last: bool) -> torch.memory_format:
    """The format by its name in PyTorch."""
    return torch.channels_last if channels_last else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """``x [N, C, H, W]`` itself if it is contiguous or channels_last, else a contiguous copy."""
    return x if is_channels_last(x) else x.contiguous()


def in_format(x: Tensor, channels_last: bool) -> Tensor:
    """``x`` in one of the two formats; no copy where it has it."""
    return x.contiguous(memory_format=memory_format(channels_last))


def empty_map(like: Tensor, channels_last: bool, channels: int | None = None) -> Tensor:
    """An empty map of the size and dtype of ``like``, with other channels if given."""
    n, c, h, w = like.shape
    return torch.empty(
        (n, c if channels is None else channels, h, w),
        dtype=like.dtype,
        device=like.device,
        memory_format=memory_format(channels_last),
    )
