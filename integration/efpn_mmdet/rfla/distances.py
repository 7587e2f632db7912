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
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from torch import Tensor

SIDE_EPS = 1e-6
EXP_KL_SCALE = 10.0
NWD_CONSTANT = 12.8  # the mean object size of AI-TOD, in pixels

Score = Callable[[Tensor, Tensor], Tensor]


def _centre_offsets(gts: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """``dx, dy``, each ``[..., G, A]``."""
    gt_centres = (gts[..., :2] + gts[..., 2:]) / 2
    anchor_centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    dx, dy = (
        gt_centres[..., :, None, axis] - anchor_centres[..., None, :, axis] for axis in (0, 1)
    )
    return dx, dy


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height plus ``SIDE_EPS``, so that an empty box divides nothing by zero."""
    sides = boxes[..., 2:] - boxes[..., :2] + SIDE_EPS
    return sides[..., 0], sides[..., 1]


def kl_divergence(gts: Tensor, anchors: Tensor) -> Tensor:
    """``KL(anchor || gt)`` for ``gts [..., G, 4]`` and ``anchors [..., A, 4]`` (xyxy), >= 0."""
    dx, dy = _centre_offsets(gts, anchors)
    (w1, h1), (w2, h2) = _sides(gts), _sides(anchors)
    w1, h1 = w1[..., :, None] ** 2, h1[..., :, None] ** 2
    w2, h2 = w2[..., None, :] ** 2, h2[..., None, :] ** 2
    total = w2 / w1
    total += h2 / h1
    total += dx.pow_(2).mul_(4).div_(w1)
    total += dy.pow_(2).mul_(4).div_(h1)
    total += torch.log(w1 / w2)
    total += torch.log(h1 / h2)
    return total.sub_(2).div_(2)


def wasserstein_squared(gts: Tensor, anchors: Tensor) -> Tensor:
    """``W^2`` for ``gts [..., G, 4]`` and ``anchors [..., A, 4]`` (xyxy): ``[..., G, A]``."""
    dx, dy = _centre_offsets(gts, anchors)
    (w1, h1), (w2, h2) = _sides(gts), _sides(anchors)
    centres = dx.pow_(2).add_(dy.pow_(2)).add_(SIDE_EPS)
    widths = w1[..., :, None] - w2[..., None, :]
    heights = h1[..., :, None] - h2[..., None, :]
    sides = widths.pow_(2).add_(heights.pow_(2)).div_(4)
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

    def __call__(
        self, bboxes1: Tensor, bboxes2: Tensor, mode: str = "iou", is_aligned: bool = False
    ) -> Tensor:
        """The scores of ground truths ``bboxes1 [G, 4]`` and anchors ``bboxes2 [A, 4]``.

        Args:
            bboxes1, bboxes2: xyxy; more columns are ignored.
            mode: "iou": the score. "iof": intersection over the area of ``bboxes1``, which an assigner's
                ``ignore_iof_thr`` is compared with, and for which no distance can stand.
            is_aligned: pairs of ``bboxes1`` and ``bboxes2``, as many of the one as of the other.

        Returns:
            ``[G, A]``, or ``[G]`` if aligned.

        Raises:
            ValueError: another mode, or pairs that are none.
        """
        gts, anchors = (get_box_tensor(boxes)[..., :4] for boxes in (bboxes1, bboxes2))
        if mode not in ("iou", "iof"):
            raise ValueError(f"mode: expected 'iou' or 'iof', got {mode!r}")
        if is_aligned and len(gts) != len(anchors):
            raise ValueError(
                f"is_aligned: expected as many boxes in both, got {len(gts)} and {len(anchors)}"
            )
        if mode == "iof":
            return bbox_overlaps(gts, anchors, mode="iof", is_aligned=is_aligned)
        if is_aligned:
            return self._score(gts[:, None], anchors[:, None])[:, 0, 0]
        return self._score(gts, anchors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(distance={self.distance!r})"
