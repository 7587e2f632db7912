"""Foreground-Background Separation Module (FBSM) in plain PyTorch: Eq. 5-8 of the paper."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Convolution = Callable[[Tensor], Tensor]


def mask_of(
    c_low: Tensor,
    p_high: Tensor,
    high_conv: Convolution,
    high_gate: Convolution,
    low_conv: Convolution,
    low_gate: Convolution,
    fuse_conv: Convolution,
) -> Tensor:
    """The mask ``M [N, G, H, W]`` of Eq. 6-7, for any convolutions."""
    upsampled = F.interpolate(
        p_high, size=c_low.shape[-2:], mode="bilinear", align_corners=False
    )  # section 3.1
    m_high = torch.sigmoid(high_gate(torch.relu(high_conv(upsampled))))  # Eq. 6
    m_low = torch.sigmoid(low_gate(torch.relu(low_conv(c_low))))  # Eq. 6
    return torch.sigmoid(fuse_conv(m_high + m_low))  # Eq. 7


def fbsm_of(c_low: Tensor, mask: Tensor, refine_conv: Convolution) -> Tensor:
    """Eq. 5 and 8: ``c_low`` separated by the mask and refined."""
    separated = c_low * mask  # Eq. 5
    return torch.relu(refine_conv(separated))  # Eq. 8


def _conv(weight: Tensor, bias: Tensor, padding: int) -> Convolution:
    return lambda x: F.conv2d(x, weight, bias, padding=padding)


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
    """The mask ``M [N, G, H, W]`` of Eq. 6-7."""
    return mask_of(
        c_low,
        p_high,
        _conv(high_conv_weight, high_conv_bias, 1),
        _conv(high_gate_weight, high_gate_bias, 0),
        _conv(low_conv_weight, low_conv_bias, 1),
        _conv(low_gate_weight, low_gate_bias, 0),
        _conv(fuse_weight, fuse_bias, 1),
    )


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
    return fbsm_of(c_low, mask, _conv(refine_weight, refine_bias, 1))


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

    def forward(self, c_low: Tensor, p_high: Tensor) -> Tensor:
        """``(c_low [N, Cl, H, W], p_high [N, Ch, h, w]) -> [N, Cl, H, W]``."""
        return fbsm_of(c_low, self.mask(c_low, p_high), self.refine_conv)

    def mask(self, c_low: Tensor, p_high: Tensor) -> Tensor:
        """The mask ``M [N, G, H, W]`` of Eq. 7, for visualisation."""
        return mask_of(
            c_low,
            p_high,
            self.high_conv,
            self.high_gate,
            self.low_conv,
            self.low_gate,
            self.fuse_conv,
        )
