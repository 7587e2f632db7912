"""Boxes, anchors and similarities for the tests of RFLA and its kin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from efpn_mmdet.rfla import RFAnchorGenerator
from efpn_mmdet.similarity.scores import build_similarity

STRIDES = [4, 8, 16, 32, 64]
SIMILARITIES = {
    **{name: {"type": name} for name in ("kl", "exp_kl", "wasserstein", "nwd")},
    "dotd": {"type": "dotd", "size": 12.7},
    "simd": {"type": "simd", "m": 6.13, "n": 4.59},
}
SCORES = {name: build_similarity(config) for name, config in SIMILARITIES.items()}


def random_boxes(count: int, extent: float, longest: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 2, generator=generator) * extent
    sides = torch.rand(count, 2, generator=generator) * longest + 1
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


def grid_anchors(size: int = 128) -> Tensor:
    generator = RFAnchorGenerator(STRIDES)
    cells = [(math.ceil(size / stride),) * 2 for stride in STRIDES]
    return torch.cat(generator.grid_priors(cells, device="cpu"))
