"""Context Enhancement Module (CEM) in plain PyTorch: Eq. 1-4 of the paper."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cem_of(p_low: Tensor, p_high: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    """Eq. 1-4, for any ``project`` of ``[N, Ch, 1, 1]`` to ``[N, Cl, 1, 1]``."""
    pooled = F.adaptive_max_pool2d(p_high, 1)  # AMP, Eq. 2
    context = torch.relu(project(pooled))  # phi, Eq. 3
    return p_low + context  # Eq. 1 and 4: the "upsample" of a 1x1 map is a broadcast


def cem(p_low: Tensor, p_high: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Add the projected global maximum of ``p_high`` to every pixel of ``p_low``.

    Args:
        p_low: low-level features ``[N, Cl, H, W]``.
        p_high: high-level features ``[N, Ch, h, w]``.
        weight: projection ``[Cl, Ch, 1, 1]``.
        bias: projection bias ``[Cl]``.

    Returns:
        ``[N, Cl, H, W]``.
    """
    return cem_of(p_low, p_high, lambda x: F.conv2d(x, weight, bias))


class CEM(nn.Module):
    """Context Enhancement Module, Eq. 1-4.

    Args:
        high_channels: channels ``Ch`` of ``p_high``.
        low_channels: channels ``Cl`` of ``p_low`` and of the output.
    """

    def __init__(self, high_channels: int, low_channels: int) -> None:
        super().__init__()
        self.high_channels = high_channels
        self.low_channels = low_channels
        self.project = nn.Conv2d(high_channels, low_channels, 1)

    def forward(self, p_low: Tensor, p_high: Tensor) -> Tensor:
        """``(p_low [N, Cl, H, W], p_high [N, Ch, h, w]) -> [N, Cl, H, W]``."""
        return cem_of(p_low, p_high, self.project)
