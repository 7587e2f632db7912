"""Label assignment by rank: RFLA's hierarchical one, and with a single ranking NWD-RKA's."""

from __future__ import annotations

import torch
from mmdet.models.task_modules.assigners import AssignResult, BaseAssigner
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor

from efpn_mmdet.similarity.ranking import (
    CHUNK_ELEMENTS,
    Ranking,
    rank_anchors,
    scaled_about_centre,
)
from efpn_mmdet.similarity.scores import build_similarity


@TASK_UTILS.register_module()
class HierarchicalAssigner(BaseAssigner):
    """Two rankings: every ground truth takes its best anchors, then one more on smaller anchors.

    1. Each ground truth takes every anchor whose score equals one of its ``topk[0]`` best; later
       ground truths win ties.
    2. Anchors scaled about their centre by ``ratio`` are ranked again with ``topk[1]``; anchors
       without a positive label take the label of this ranking: positive, background (best score
       below ``background_below``) or ignored.

    NWD-RKA (Xu et al., ISPRS 2022) is the first ranking alone: ``similarity=dict(type="nwd", constant=12.7)``,
    ``topk=(2, 0)`` for Faster R-CNN and ``(3, 0)`` for Cascade R-CNN and DetectoRS, ``background_below=0.3`` as in
    its code or 1.0 as in its paper.

    Memory is bounded: 5 000 ground truths against 200 000 anchors stay below 2 GB.

    Args:
        similarity: "kl" or another of :mod:`efpn_mmdet.similarity.scores`, with constants as a dict.
        topk: ``(k1, k2)``; ``k2 = 0`` leaves the second ranking out.
        ratio: scale of the anchors in the second ranking.
        background_below: anchors below it are background, others that no ground truth takes are ignored; 0.8 is RFLA's.
        ignore_iof_thr: anchors covered by an ignored ground truth more than this (intersection over
            the anchor's area) are ignored; negative: no anchor is.
        published_rescale: the published code scales the anchors in place, so that the head's
            regression targets are made against the smaller anchors. ``True`` repeats that: the
            caller's ``priors`` are overwritten. ``False`` leaves them alone.
        gpu_assign_thr: with ``published_rescale``, above this many ground truths the published code
            works on a CPU copy and leaves anchors on an accelerator unscaled; negative: never.
        chunk_elements: scores computed at a time.
    """

    def __init__(
        self,
        similarity: str | dict = "kl",
        topk: tuple[int, int] = (3, 1),
        ratio: float = 0.9,
        background_below: float = 0.8,
        ignore_iof_thr: float = -1.0,
        published_rescale: bool = False,
        gpu_assign_thr: int = 512,
        chunk_elements: int = CHUNK_ELEMENTS,
    ) -> None:
        if len(topk) != 2 or topk[0] < 1 or topk[1] < 0:
            raise ValueError(f"topk: expected (k1 >= 1, k2 >= 0), got {tuple(topk)}")
        if ratio <= 0:
            raise ValueError(f"ratio: expected a positive number, got {ratio}")
        self.score = build_similarity(similarity)
        self.topk = tuple(topk)
        self.ratio = ratio
        self.background_below = background_below
        self.ignore_iof_thr = ignore_iof_thr
        self.published_rescale = published_rescale
        self.gpu_assign_thr = gpu_assign_thr
        self.chunk_elements = chunk_elements

    @torch.no_grad()
    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs,
    ) -> AssignResult:
        """Assign ``gt_instances`` (``bboxes``, ``labels``) to ``pred_instances.priors [A, 4]``."""
        priors = get_box_tensor(pred_instances.priors)
        gt_boxes = get_box_tensor(gt_instances.bboxes)
        dtype = torch.promote_types(
            torch.promote_types(priors.dtype, gt_boxes.dtype), torch.float32
        )
        anchors, gts = priors.to(dtype), gt_boxes.to(dtype)
        excluded = self._excluded(anchors, gt_instances_ignore)
        k1, k2 = self.topk

        def rank(anchors: Tensor, k: int) -> Ranking:
            return rank_anchors(
                gts, anchors, k, self.score, excluded, self.background_below, self.chunk_elements
            )

        ranking = rank(anchors, k1)
        if k2 > 0:
            smaller = scaled_about_centre(anchors, self.ratio)
            ranking = rank(smaller, k2).yielding_to(ranking)
            if self.published_rescale and self._rescale_reaches(priors.device, len(gts)):
                priors.copy_(smaller)
        return AssignResult(
            num_gts=len(gts),
            gt_inds=ranking.gt_inds,
            max_overlaps=ranking.best_scores,
            labels=_labels(ranking.gt_inds, gt_instances.labels),
        )

    def _excluded(self, anchors: Tensor, ignored: InstanceData | None) -> Tensor | None:
        if self.ignore_iof_thr <= 0 or ignored is None or len(ignored.bboxes) == 0:
            return None
        excluded = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
        for box in get_box_tensor(ignored.bboxes).to(anchors.dtype).split(1):
            excluded |= bbox_overlaps(anchors, box, mode="iof")[:, 0] > self.ignore_iof_thr
        return excluded

    def _rescale_reaches(self, device: torch.device, num_gts: int) -> bool:
        """Whether the published code's in-place scaling reaches anchors on ``device``."""
        on_cpu_copy = device.type != "cpu" and 0 < self.gpu_assign_thr < num_gts
        return not on_cpu_copy


def _labels(gt_inds: Tensor, gt_labels: Tensor) -> Tensor:
    labels = torch.full_like(gt_inds, -1)
    positive = gt_inds > 0
    labels[positive] = gt_labels[gt_inds[positive] - 1].to(labels.dtype)
    return labels
