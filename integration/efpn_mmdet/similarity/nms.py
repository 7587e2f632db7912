"""Non-maximum suppression of proposals by a similarity."""

from __future__ import annotations

import numpy as np
import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor, get_box_wh, scale_boxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from .scores import Score, build_similarity

BLOCK = 1024


def similarity_nms(
    boxes: Tensor, scores: Tensor, similarity: Score, threshold: float, block: int = BLOCK
) -> Tensor:
    """Greedy: the best box stays, and what is more alike to it than ``threshold`` goes, and so on.

    At most ``block * n`` similarities exist at a time; ``block`` does not change the result.

    Args:
        boxes: ``[n, 4]`` xyxy.
        scores: ``[n]``; of equal ones the first counts as the better.
        similarity: of ``[g, 4]`` and ``[a, 4]``: ``[g, a]``.
        threshold: of the similarity.
        block: boxes that are compared with the rest at a time.

    Returns:
        Indices of the boxes that stay, int64, the best first.
    """
    left = scores.argsort(descending=True, stable=True)
    kept = [left[:0]]
    while len(left) > 0:
        head, left = left[:block], left[block:]
        # One copy to the host for a block: the greedy order is a loop that a GPU would do step by step.
        alike = (similarity(boxes[head], boxes[head]) > threshold).cpu().numpy()
        stays, alive = [], np.ones(len(head), dtype=bool)
        for index in range(len(head)):
            if alive[index]:
                stays.append(index)
                alive &= ~alike[index]
        head = head[torch.tensor(stays, device=head.device)]
        kept.append(head)
        if len(left) > 0:
            left = left[~(similarity(boxes[head], boxes[left]) > threshold).any(0)]
    return torch.cat(kept)


@MODELS.register_module()
class SimilarityRPNHead(RPNHead):
    """mmdet's RPN head whose proposals may be suppressed by a similarity instead of IoU.

    Give the ``nms`` of ``rpn_proposal`` and of ``test_cfg.rpn`` as
    ``dict(type="similarity", similarity=dict(type="nwd", constant=12.8), threshold=0.85)``: a proposal goes if it
    is more alike to a better one of its own pyramid level. Every other ``nms`` is mmdet's.
    """

    def _bbox_post_process(
        self,
        results: InstanceData,
        cfg: ConfigDict,
        rescale: bool = False,
        with_nms: bool = True,
        img_meta: dict | None = None,
    ) -> InstanceData:
        if cfg.nms.get("type") != "similarity" or len(results) == 0:
            return super()._bbox_post_process(results, cfg, rescale, with_nms, img_meta)
        if rescale:
            results.bboxes = scale_boxes(results.bboxes, [1 / s for s in img_meta["scale_factor"]])
        if cfg.get("min_bbox_size", -1) >= 0:
            width, height = get_box_wh(results.bboxes)
            results = results[(width > cfg.min_bbox_size) & (height > cfg.min_bbox_size)]
        results = results[_nms_by_level(results, cfg.nms)][: cfg.max_per_img]
        results.labels = torch.zeros_like(results.level_ids)
        del results.level_ids
        return results


def _nms_by_level(results: InstanceData, nms: ConfigDict) -> Tensor:
    """Indices into ``results``, the best first."""
    similarity = build_similarity(nms.similarity)
    boxes, scores = get_box_tensor(results.bboxes).float(), results.scores
    kept = []
    for level in results.level_ids.unique():
        members = (results.level_ids == level).nonzero()[:, 0]
        kept.append(
            members[similarity_nms(boxes[members], scores[members], similarity, nms.threshold)]
        )
    kept = torch.cat([scores.new_zeros(0, dtype=torch.long), *kept])
    return kept[scores[kept].argsort(descending=True, stable=True)]
