"""Rank assignment: every ground truth takes its best anchors. Plain tensors, bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .scores import Score

BACKGROUND, IGNORED = 0, -1
CHUNK_ELEMENTS = 1 << 22


@dataclass
class Ranking:
    """Result for ``A`` anchors.

    Attributes:
        gt_inds: ``[A]`` int64; 0 background, -1 ignored, ``i + 1`` positive for ground truth ``i``.
        best_scores: ``[A]``; each anchor's best score over the ground truths.
    """

    gt_inds: Tensor
    best_scores: Tensor

    def yielding_to(self, first: Ranking) -> Ranking:
        """This ranking, except that the positives of ``first`` stay as they are."""
        gt_inds = torch.where(first.gt_inds > 0, first.gt_inds, self.gt_inds)
        return Ranking(gt_inds, self.best_scores)


def rank_anchors(
    gts: Tensor,
    anchors: Tensor,
    k: int,
    score: Score,
    excluded: Tensor | None = None,
    background_below: float = 0.8,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Ranking:
    """Give every ground truth each anchor whose score equals one of its ``k`` best.

    Anchors whose best score is below ``background_below`` start as background, the others as ignored. Where several
    ground truths want an anchor, the last one gets it. The score matrix is never built: it is
    visited ``chunk_elements`` at a time, and the result does not depend on how.

    Args:
        gts: ``[G, 4]`` xyxy.
        anchors: ``[A, 4]`` xyxy, of the same dtype and device.
        k: how many of a ground truth's best scores count; 0 assigns nothing.
        score: elementwise score ``([g, 4], [A, 4]) -> [g, A]``.
        excluded: ``[A]`` bool; these anchors score -1, stay ignored and are never positive.
        background_below: see above.
    """
    count, k = len(anchors), min(k, len(anchors))
    if count == 0 or len(gts) == 0:
        unwanted = torch.full((count,), BACKGROUND, dtype=torch.long, device=anchors.device)
        if excluded is not None:
            unwanted[excluded] = IGNORED
        return Ranking(unwanted, anchors.new_zeros(count))
    best = anchors.new_full((count,), -torch.inf)
    winner = torch.zeros(count, dtype=torch.long, device=anchors.device)
    rows = max(1, chunk_elements // count)
    for start in range(0, len(gts), rows):
        scores = score(gts[start : start + rows], anchors)
        if excluded is not None:
            scores.masked_fill_(excluded, -1.0)
        torch.maximum(best, scores.amax(0), out=best)
        if k > 0:
            kth_best = scores.topk(k, dim=1).values[:, -1:]
            gt, anchor = ((scores >= kth_best) & (scores >= 0)).nonzero(as_tuple=True)
            winner.scatter_reduce_(0, anchor, gt + (start + 1), "amax")
    background = (best >= 0) & (best < background_below)
    unwanted = torch.where(background, BACKGROUND, IGNORED)
    return Ranking(torch.where(winner > 0, winner, unwanted), best)


def scaled_about_centre(boxes: Tensor, ratio: float) -> Tensor:
    """Boxes ``[A, 4]`` (xyxy) with both sides multiplied by ``ratio``."""
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2
    half_sides = (boxes[:, 2:] - boxes[:, :2]) * ratio / 2
    return torch.cat([centres - half_sides, centres + half_sides], dim=1)
