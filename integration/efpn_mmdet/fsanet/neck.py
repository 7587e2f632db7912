"""FSANet's neck: a top-down pyramid that samples the higher level where it fits the lower one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn


def sample_shifted(high: Tensor, offset: Tensor) -> Tensor:
    """``high [N, C, h, w]`` stretched to the size of ``offset [N, 2, H, W]`` and read ``offset`` pixels aside.

    Bilinear, the corners' centres on each other, zero outside. ``offset`` is (x, y), in halves of a pixel of the
    result: the sampling grid runs from -1 to 1, and the published code adds ``offset / (W, H)`` to it.
    """
    height, width = offset.shape[-2:]
    y = torch.linspace(-1, 1, height, dtype=offset.dtype, device=offset.device)
    x = torch.linspace(-1, 1, width, dtype=offset.dtype, device=offset.device)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    shift = offset.permute(0, 2, 3, 1) / offset.new_tensor([width, height])
    return F.grid_sample(high, grid + shift, align_corners=True)


class AlignedMerge(nn.Module):
    """The paper's FA2M: ``low`` plus ``high``, shifted by offsets that both tell.

    Args:
        channels: of both.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        both = 2 * channels
        self.offset = nn.Sequential(
            nn.Conv2d(both, both, 3, padding=1, groups=both, bias=False),
            nn.Conv2d(both, 2, 1, bias=False),
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """``low [N, C, H, W]`` and ``high [N, C, h, w]``: ``[N, C, H, W]``."""
        stretched = F.interpolate(high, low.shape[-2:], mode="bilinear", align_corners=True)
        return low + sample_shifted(high, self.offset(torch.cat([low, stretched], dim=1)))


@MODELS.register_module()
class AlignFPN(BaseModule):
    """P3, P4 and P5 of C3, C4 and C5.

    Args:
        in_channels: of the backbone's outputs.
        out_channels: of each level.
        start_level: the backbone's output that the pyramid begins with.
        norm_cfg: of the lateral convolutions.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        start_level: int = 1,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            init_cfg or {"type": "Xavier", "layer": "Conv2d", "distribution": "uniform"}
        )
        norm_cfg = norm_cfg or {"type": "GN", "num_groups": 32}
        self.out_channels = out_channels
        self.start_level = start_level
        used = in_channels[start_level:]
        self.laterals = nn.ModuleList(
            ConvModule(one, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None) for one in used
        )
        self.merges = nn.ModuleList(AlignedMerge(out_channels) for _ in used[1:])
        self.outputs = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in used
        )

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The levels, the finest first."""
        levels = [lateral(one) for lateral, one in zip(self.laterals, inputs[self.start_level :])]
        for index in reversed(range(len(levels) - 1)):
            levels[index] = self.merges[index](levels[index], levels[index + 1])
        return tuple(output(one) for output, one in zip(self.outputs, levels))
