"""Receptive field distances: how well a Gaussian receptive field covers a Gaussian ground truth.

A box of centre ``c`` and sides ``(w, h)`` is the Gaussian ``N(c, diag(w^2 / 4, h^2 / 4))``. Every
score is 1 for equal boxes and falls towards 0 with the distance of the two Gaussians (RFLA,
Xu et al., ECCV 2022; NWD, Wang et al., 2021). With ``dx, dy`` the offset of the centres, ``w1, h1``
the ground truth's sides and ``w2, h2`` the anchor's::

    KL(anchor || gt) = (w2^2 / w1^2 + h2^2 / h1^2 + 4 dx^2 / w1^2 + 4 dy^2 / h1^2
                        + ln(w1^2 / w2^2) + ln(h1^2 / h2^2) - 2) / 2
    W^2              = dx^2 + dy^2 + ((w1 - w2)^2 + (h1 - h2)^2) / 4

Every score is elementwise in the pair of boxes, in a fixed order of operations: computing a slice
of the matrix gives the same bits as slicing the whole matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

SIDE_EPS = 1e-6
EXP_KL_SCALE = 10.0
NWD_CONSTANT = 12.8  # the mean object size of AI-TOD, in pixels

Score = Callable[[Tensor, Tensor], Tensor]


def _centre_offsets(gts: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """``dx, dy``, each ``[G, A]``."""
    gt_centres = (gts[:, :2] + gts[:, 2:]) / 2
    anchor_centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    dx, dy = (gt_centres[:, None, axis] - anchor_centres[None, :, axis] for axis in (0, 1))
    return dx, dy


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height plus ``SIDE_EPS``, so that an empty box divides nothing by zero."""
    sides = boxes[:, 2:] - boxes[:, :2] + SIDE_EPS
    return sides[:, 0], sides[:, 1]


def kl_divergence(gts: Tensor, anchors: Tensor) -> Tensor:
    """``KL(anchor || gt)`` for ``gts [G, 4]`` and ``anchors [A, 4]`` (xyxy): ``[G, A]``, >= 0."""
    dx, dy = _centre_offsets(gts, anchors)
    (w1, h1), (w2, h2) = _sides(gts), _sides(anchors)
    w1, h1 = w1[:, None] ** 2, h1[:, None] ** 2
    w2, h2 = w2[None] ** 2, h2[None] ** 2
    total = w2 / w1
    total += h2 / h1
    total += dx.pow_(2).mul_(4).div_(w1)
    total += dy.pow_(2).mul_(4).div_(h1)
    total += torch.log(w1 / w2)
    total += torch.log(h1 / h2)
    return total.sub_(2).div_(2)


def wasserstein_squared(gts: Tensor, anchors: Tensor) -> Tensor:
    """``W^2`` for ``gts [G, 4]`` and ``anchors [A, 4]`` (xyxy): ``[G, A]``."""
    dx, dy = _centre_offsets(gts, anchors)
    (w1, h1), (w2, h2) = _sides(gts), _sides(anchors)
    centres = dx.pow_(2).add_(dy.pow_(2)).add_(SIDE_EPS)
    sides = (w1[:, None] - w2).pow_(2).add_((h1[:, None] - h2).pow_(2)).div_(4)
    return centres.add_(sides)


def kl_score(gts: Tensor, anchors: Tensor) -> Tensor:
    """``1 / (1 + KL)``."""
    return kl_divergence(gts, anchors).add_(1).reciprocal_()


def exp_kl_score(gts: Tensor, anchors: Tensor) -> Tensor:
    """``exp(-KL / 10)``."""
    return kl_divergence(gts, anchors).neg_().div_(EXP_KL_SCALE).exp_()


def wasserstein_score(gts: Tensor, anchors: Tensor) -> Tensor:
    """``1 / (1 + W^2)``."""
    return wasserstein_squared(gts, anchors).add_(1).reciprocal_()


def nwd_score(gts: Tensor, anchors: Tensor) -> Tensor:
    """Normalised Wasserstein distance, ``exp(-W / 12.8)``."""
    return wasserstein_squared(gts, anchors).sqrt_().neg_().div_(NWD_CONSTANT).exp_()


SCORES: dict[str, Score] = {
    "kl": kl_score,
    "exp_kl": exp_kl_score,
    "wasserstein": wasserstein_score,
    "nwd": nwd_score,
}


def score_by_name(name: str) -> Score:
    """The score function of that name; raises ``ValueError`` for an unknown one."""
    if name not in SCORES:
        raise ValueError(f"distance: expected one of {', '.join(SCORES)}, got {name!r}")
    return SCORES[name]


@TASK_UTILS.register_module()
class ReceptiveFieldDistance:
    """A score as an mmdet ``iou_calculator``, for assigners such as ``MaxIoUAssigner``.

    Args:
        distance: "kl", "exp_kl", "wasserstein" or "nwd".
    """

    def __init__(self, distance: str = "kl") -> None:
        self.distance = distance
        self._score = score_by_name(distance)

    def __call__(self, gts: Tensor, anchors: Tensor) -> Tensor:
        """``gts [G, 4]``, ``anchors [A, 4]`` (xyxy, more columns are ignored) to ``[G, A]``."""
        return self._score(get_box_tensor(gts)[:, :4], get_box_tensor(anchors)[:, :4])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(distance={self.distance!r})"
