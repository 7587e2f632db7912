"""E-FPN-BS, CEM followed by FBSM, in plain PyTorch: Fig. 3 of the paper."""

from __future__ import annotations

from torch import Tensor, nn

from .cem import CEM, cem
from .fbsm import FBSM, fbsm


def efpn_bs(
    p_low: Tensor,
    p_high: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
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
    """CEM then FBSM; the parameters as in :func:`cem` and :func:`fbsm`."""
    c_low = cem(p_low, p_high, project_weight, project_bias)
    return fbsm(
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
        refine_weight,
        refine_bias,
    )


class EFPNBS(nn.Module):
    """E-FPN-BS block: CEM then FBSM, Fig. 3.

    Args:
        high_channels: channels ``Ch`` of ``p_high``.
        low_channels: channels ``Cl`` of ``p_low`` and of the output.
        hidden_channels: see :class:`FBSM`.
        gate_channels: see :class:`FBSM`.
        use_cem: ``False`` leaves CEM out (Table 5).
        use_fbsm: ``False`` leaves FBSM out (Table 5).
    """

    CEM = CEM  # the classes of the two parts, which the fused twin replaces
    FBSM = FBSM

    def __init__(
        self,
        high_channels: int,
        low_channels: int,
        hidden_channels: int | None = None,
        gate_channels: int = 1,
        use_cem: bool = True,
        use_fbsm: bool = True,
    ) -> None:
        super().__init__()
        self.use_cem = use_cem
        self.use_fbsm = use_fbsm
        if use_cem:
            self.cem = self.CEM(high_channels, low_channels)
        if use_fbsm:
            self.fbsm = self.FBSM(high_channels, low_channels, hidden_channels, gate_channels)

    def forward(self, p_low: Tensor, p_high: Tensor) -> Tensor:
        """``(p_low [N, Cl, H, W], p_high [N, Ch, h, w]) -> [N, Cl, H, W]``."""
        if self.use_cem:
            p_low = self.cem(p_low, p_high)
        if self.use_fbsm:
            p_low = self.fbsm(p_low, p_high)
        return p_low

    def mask(self, p_low: Tensor, p_high: Tensor) -> Tensor:
        """The mask ``M [N, G, H, W]`` of Eq. 7, for visualisation."""
        if not self.use_fbsm:
            raise ValueError("mask: this block was built with use_fbsm=False and has no mask")
        if self.use_cem:
            p_low = self.cem(p_low, p_high)
        return self.fbsm.mask(p_low, p_high)
