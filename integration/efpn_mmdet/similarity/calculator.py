"""A similarity as what mmdet's assigners call an ``iou_calculator``."""

from __future__ import annotations

import torch
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from torch import Tensor

from .scores import build_similarity


@TASK_UTILS.register_module()
class BoxSimilarity:
    """In place of IoU: ``iou_calculator=dict(type="BoxSimilarity", similarity="nwd")``.

    Args:
        similarity: a name, or a name with constants: ``dict(type="dotd", size=12.7)``. See
            :mod:`efpn_mmdet.similarity.scores`.
    """

    def __init__(self, similarity: str | dict = "kl") -> None:
        self.similarity = similarity
        self._score = build_similarity(similarity)

    def __call__(
        self, bboxes1: Tensor, bboxes2: Tensor, mode: str = "iou", is_aligned: bool = False
    ) -> Tensor:
        """The similarities of ground truths ``bboxes1 [G, 4]`` and anchors ``bboxes2 [A, 4]``.

        Args:
            bboxes1, bboxes2: xyxy; more columns are ignored. Half precision is computed in single.
            mode: "iou": the similarity. "iof": intersection over the area of ``bboxes1``, which an assigner's
                ``ignore_iof_thr`` is compared with, and for which no similarity can stand.
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
        dtype = torch.promote_types(torch.promote_types(gts.dtype, anchors.dtype), torch.float32)
        gts, anchors = gts.to(dtype), anchors.to(dtype)
        if is_aligned:
            return self._score(gts[:, None], anchors[:, None])[:, 0, 0]
        return self._score(gts, anchors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(similarity={self.similarity!r})"
