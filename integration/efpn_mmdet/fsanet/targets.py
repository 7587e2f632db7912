"""Which box each point of FSANet's head is to find."""

from __future__ import annotations

import torch
from torch import Tensor


def distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Left, top, right, bottom of ``points [P, 2]`` to the sides of ``boxes [G, 4]``: ``[P, G, 4]``."""
    to_corner = points[:, None] - boxes[None, :, :2]
    return torch.cat([to_corner, boxes[None, :, 2:] - points[:, None]], dim=-1)


def assign_points(
    points: Tensor, centres: Tensor, ranges: Tensor, boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """The smallest box that holds a point's centre and is of its level's range.

    First the centres are the points themselves, as in FCOS; then those of the boxes that the points predict. The
    distances are of the points both times, so that those of the second may be negative.

    Args:
        points: ``[P, 2]``.
        centres: ``[P, 2]``.
        ranges: ``[P, 2]``; the largest of the four distances is to lie between these, both included.
        boxes: ``[G, 4]`` xyxy.

    Returns:
        The box of each point ``[P]`` int64, -1 for none, and the distances to it ``[P, 4]``.
    """
    if len(boxes) == 0:
        return points.new_full((len(points),), -1, dtype=torch.long), points.new_zeros(
            len(points), 4
        )
    targets = distances(points, boxes)
    furthest = targets.amax(-1)
    fits = distances(centres, boxes).amin(-1) > 0
    fits &= (furthest >= ranges[:, :1]) & (furthest <= ranges[:, 1:])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1).expand_as(fits)
    smallest, index = areas.masked_fill(~fits, torch.inf).min(1)
    chosen = targets[torch.arange(len(points), device=points.device), index]
    return torch.where(smallest < torch.inf, index, -1), chosen


def gaussian_centreness(sides: Tensor) -> Tensor:
    """``exp(-4 (dx / w)^2 - 4 (dy / h)^2)`` of distances ``[n, 4]``, ``dx`` and ``dy`` to the box's centre."""
    near, far = sides[:, :2], sides[:, 2:]
    relative = (near - far) / 2 / (near + far)
    return (-4 * relative.square().sum(1)).exp()
