"""Boxes and anchors for the tests of RFLA."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from efpn_mmdet.rfla import RFAnchorGenerator

STRIDES = [4, 8, 16, 32, 64]


def random_boxes(count: int, extent: float, longest: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 2, generator=generator) * extent
    sides = torch.rand(count, 2, generator=generator) * longest + 1
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


def grid_anchors(size: int = 128) -> Tensor:
    generator = RFAnchorGenerator(STRIDES)
    cells = [(math.ceil(size / stride),) * 2 for stride in STRIDES]
    return torch.cat(generator.grid_priors(cells, device="cpu"))
