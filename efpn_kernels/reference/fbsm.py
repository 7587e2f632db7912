"""Foreground-Background Separation Module (FBSM) in plain PyTorch: Eq. 5-8 of the paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fbsm_mask(
    c_low: Tensor,
    p_high: Tensor,
    high_conv_weight: Tensor,
    high_conv_bias: Tensor,
    high_gate_weight: Tensor,
    high_gate_bias: Tensor,
    low_conv_weight: Tensor,
    low_conv_bias: Tensor,
    low_gate_weight: Tensor,
    low_gate_bias: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor,
) -> Tensor:
    """The fusion gate ``M [N, G, H, W]`` of Eq. 6-7."""
    upsampled = F.interpolate(
        p_high, size=c_low.shape[-2:], mode="bilinear", align_corners=False
    )  # section 3.1
    hidden_high = torch.relu(F.conv2d(upsampled, high_conv_weight, high_conv_bias, padding=1))
    m_high = torch.sigmoid(F.conv2d(hidden_high, high_gate_weight, high_gate_bias))  # Eq. 6
    hidden_low = torch.relu(F.conv2d(c_low, low_conv_weight, low_conv_bias, padding=1))
    m_low = torch.sigmoid(F.conv2d(hidden_low, low_gate_weight, low_gate_bias))  # Eq. 6
    return torch.sigmoid(F.conv2d(m_high + m_low, fuse_weight, fuse_bias, padding=1))  # Eq. 7


def fbsm(
    c_low: Tensor,
    p_high: Tensor,
    high_conv_weight: Tensor,
    high_conv_bias: Tensor,
    high_gate_weight: Tensor,
    high_gate_bias: Tensor,
    low_conv_weight: Tensor,
    low_conv_bias: Tensor,
    low_gate_weight: Tensor,
    low_gate_bias: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor,
    refine_weight: Tensor,
    refine_bias: Tensor,
) -> Tensor:
    """Gate ``c_low`` with the foreground mask and refine it, Eq. 5-8.

    Args:
        c_low: low-level features ``[N, Cl, H, W]``.
        p_high: high-level features ``[N, Ch, h, w]``.
        high_conv_weight: ``[D, Ch, 3, 3]``; high_conv_bias: ``[D]``.
        high_gate_weight: ``[G, D, 1, 1]``; high_gate_bias: ``[G]``.
        low_conv_weight: ``[D, Cl, 3, 3]``; low_conv_bias: ``[D]``.
        low_gate_weight: ``[G, D, 1, 1]``; low_gate_bias: ``[G]``.
        fuse_weight: ``[G, G, 3, 3]``; fuse_bias: ``[G]``.
        refine_weight: ``[Cl, Cl, 3, 3]``; refine_bias: ``[Cl]``.

    ``G`` is 1 (one mask for all channels) or ``Cl`` (a mask per channel).

    Returns:
        ``[N, Cl, H, W]``.
    """
    mask = fbsm_mask(
        c_low,
        p_high,
        high_conv_weight,
        high_conv_bias,
        high_gate_weight,
        high_gate_bias,
        low_conv_weight,
        low_conv_bias,
        low_gate_weight,
        low_gate_bias,
        fuse_weight,
        fuse_bias,
    )
    separated = c_low * mask  # Eq. 5
    return torch.relu(F.conv2d(separated, refine_weight, refine_bias, padding=1))  # Eq. 8


class FBSM(nn.Module):
    """Foreground-Background Separation Module, Eq. 5-8.

    Args:
        high_channels: channels ``Ch`` of ``p_high``.
        low_channels: channels ``Cl`` of ``c_low`` and of the output.
        hidden_channels: channels ``D`` of the two 3x3 gate convolutions; ``None`` means ``low_channels``.
        gate_channels: 1 for one spatial mask, or ``low_channels`` for a mask per channel.
    """

    def __init__(
        self,
        high_channels: int,
        low_channels: int,
        hidden_channels: int | None = None,
        gate_channels: int = 1,
    ) -> None:
        super().__init__()
        hidden_channels = low_channels if hidden_channels is None else hidden_channels
        if gate_channels not in (1, low_channels):
            raise ValueError(
                f"gate_channels: expected 1 or low_channels ({low_channels}), got {gate_channels}"
            )
        self.high_channels = high_channels
        self.low_channels = low_channels
        self.hidden_channels = hidden_channels
        self.gate_channels = gate_channels
        self.high_conv = nn.Conv2d(high_channels, hidden_channels, 3, padding=1)
        self.high_gate = nn.Conv2d(hidden_channels, gate_channels, 1)
        self.low_conv = nn.Conv2d(low_channels, hidden_channels, 3, padding=1)
        self.low_gate = nn.Conv2d(hidden_channels, gate_channels, 1)
        self.fuse_conv = nn.Conv2d(gate_channels, gate_channels, 3, padding=1)
        self.refine_conv = nn.Conv2d(low_channels, low_channels, 3, padding=1)

    def gate_parameters(self) -> tuple[Tensor, ...]:
        """The parameters of the mask in the order of :func:`fbsm_mask`."""
        convs = (self.high_conv, self.high_gate, self.low_conv, self.low_gate, self.fuse_conv)
        return tuple(p for conv in convs for p in (conv.weight, conv.bias))

    def fbsm_parameters(self) -> tuple[Tensor, ...]:
        """The parameters in the order of :func:`fbsm`."""
        refine = self.refine_conv
        return (*self.gate_parameters(), refine.weight, refine.bias)

    def forward(self, c_low: Tensor, p_high: Tensor) -> Tensor:
        """``(c_low [N, Cl, H, W], p_high [N, Ch, h, w]) -> [N, Cl, H, W]``."""
        return fbsm(c_low, p_high, *self.fbsm_parameters())

    def mask(self, c_low: Tensor, p_high: Tensor) -> Tensor:
        """The fusion gate ``M [N, G, H, W]`` of Eq. 7, for looking at."""
        return fbsm_mask(c_low, p_high, *self.gate_parameters())
