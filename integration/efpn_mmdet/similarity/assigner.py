"""mmdet's threshold assigner in bounded memory."""

from __future__ import annotations

import torch
from mmdet.models.task_modules.assigners import AssignResult, MaxIoUAssigner
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor

from .ranking import BACKGROUND, CHUNK_ELEMENTS, IGNORED


@TASK_UTILS.register_module()
class ChunkedMaxIoUAssigner(MaxIoUAssigner):
    """``MaxIoUAssigner`` that visits the matrix of ground truths and anchors in slices: the same result.

    ``MaxIoUAssigner`` keeps the matrix and some copies of it, 2 GB for 500 boxes against RetinaNet's 120 000 anchors;
    here there are ``chunk_elements`` of each at a time. Nothing has to move to the CPU above some number of boxes.

    Args:
        chunk_elements: similarities computed at a time.
        **settings: those of ``MaxIoUAssigner``, without ``perm_repeat_gt_cfg``.

    Raises:
        ValueError: ``perm_repeat_gt_cfg``.
    """

    def __init__(self, *args, chunk_elements: int = CHUNK_ELEMENTS, **settings) -> None:
        super().__init__(*args, **settings)
        if self.perm_repeat_gt_cfg is not None:
            raise ValueError("perm_repeat_gt_cfg: expected None, or mmdet's MaxIoUAssigner")
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
        priors, gts = pred_instances.priors, gt_instances.bboxes
        rows = max(1, self.chunk_elements // max(1, len(priors)))
        if len(gts) <= rows or len(priors) == 0:
            return super().assign(pred_instances, gt_instances, gt_instances_ignore, **kwargs)
        excluded = self._excluded(priors, gt_instances_ignore, rows)
        best = nearest = wanted_by = None
        for start in range(0, len(gts), rows):
            overlaps = self.iou_calculator(gts[start : start + rows], priors)
            if excluded is not None:
                overlaps[:, excluded] = -1
            values, indices = overlaps.max(dim=0)
            if best is None:
                best, nearest = values, indices
                wanted_by = torch.zeros_like(nearest)
            else:
                better = values > best  # of equals the first
                best = torch.where(better, values, best)
                nearest = torch.where(better, indices + start, nearest)
            if self.match_low_quality:
                self._match_best(overlaps, start, wanted_by)
        return self._result(best, nearest, wanted_by, gt_instances.labels)

    def _excluded(self, priors: Tensor, ignored: InstanceData | None, rows: int) -> Tensor | None:
        """Priors that ignored regions cover."""
        if self.ignore_iof_thr <= 0 or ignored is None or len(ignored.bboxes) == 0:
            return None
        excluded = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
        for start in range(0, len(ignored.bboxes), rows):
            regions = ignored.bboxes[start : start + rows]
            if self.ignore_wrt_candidates:
                covered = self.iou_calculator(priors, regions, mode="iof").amax(1)
            else:
                covered = self.iou_calculator(regions, priors, mode="iof").amax(0)
            excluded |= covered > self.ignore_iof_thr
        return excluded

    def _match_best(self, overlaps: Tensor, start: int, wanted_by: Tensor) -> None:
        """Mark, for each ground truth of ``overlaps [g, A]``, its best priors; the last one to want one gets it."""
        values, indices = overlaps.max(dim=1)
        enough = values >= self.min_pos_iou
        if self.gt_max_assign_all:
            gt, prior = ((overlaps == values[:, None]) & enough[:, None]).nonzero(as_tuple=True)
        else:
            gt = enough.nonzero()[:, 0]
            prior = indices[gt]
        wanted_by.scatter_reduce_(0, prior, gt + (start + 1), "amax")

    def _result(
        self, best: Tensor, nearest: Tensor, wanted_by: Tensor, gt_labels: Tensor
    ) -> AssignResult:
        thresholds = self.neg_iou_thr
        low, high = thresholds if isinstance(thresholds, tuple) else (0.0, thresholds)
        background = (best >= low) & (best < high)
        gt_inds = torch.where(background, BACKGROUND, IGNORED)
        gt_inds = torch.where(best >= self.pos_iou_thr, nearest + 1, gt_inds)
        gt_inds = torch.where(wanted_by > 0, wanted_by, gt_inds)
        labels = torch.full_like(gt_inds, -1)
        positive = gt_inds > 0
        labels[positive] = gt_labels[gt_inds[positive] - 1].to(labels.dtype)
        return AssignResult(len(gt_labels), gt_inds, best, labels)
