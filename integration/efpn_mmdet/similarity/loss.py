"""One minus a similarity as a regression loss."""

from __future__ import annotations

from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS
from torch import Tensor, nn

from .calculator import BoxSimilarity


@MODELS.register_module()
class SimilarityLoss(nn.Module):
    """``loss_weight * (1 - similarity)`` of predicted and target boxes, one value for each pair.

    Meant for boxes in pixels, as the IoU losses are: ``reg_decoded_bbox=True`` in heads that encode them.

    Args:
        similarity: as for :class:`~efpn_mmdet.similarity.calculator.BoxSimilarity`.
        reduction: "none", "mean" or "sum".
        loss_weight: factor.
    """

    def __init__(
        self, similarity: str | dict, reduction: str = "mean", loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.similarity = BoxSimilarity(similarity)
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss of ``pred [n, 4]`` against ``target [n, 4]``; zero, with a graph, for no box at all.

        Args:
            pred, target: xyxy.
            weight: ``[n]``, or ``[n, 4]``, whose rows are averaged as mmdet's IoU losses do.
            avg_factor: with the reduction "mean", the divisor of the sum.
            reduction_override: "none", "mean" or "sum" instead of the module's own.

        Raises:
            ValueError: shapes that differ, an unknown reduction, ``avg_factor`` with the reduction "sum".
        """
        if pred.shape != target.shape or pred.shape[-1:] != (4,):
            raise ValueError(
                f"pred, target: expected two of shape [n, 4], got {tuple(pred.shape)} and "
                f"{tuple(target.shape)}"
            )
        reduction = reduction_override or self.reduction
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"reduction: expected 'none', 'mean' or 'sum', got {reduction!r}")
        losses = 1 - self.similarity(target, pred, is_aligned=True)
        if weight is not None and weight.dim() > 1:
            weight = weight.mean(-1)
        if len(losses) == 0 and reduction != "none":
            return self.loss_weight * pred.sum()  # the mean of nothing would be no number
        return self.loss_weight * weight_reduce_loss(losses, weight, reduction, avg_factor)


@MODELS.register_module()
class NWDLoss(SimilarityLoss):
    """``1 - NWD`` (Wang et al., 2021). On encoded deltas, as the published Cascade and DetectoRS configs have it,
    it is a saturating L2 loss: ``1 - exp(-|pred - target| / (sqrt(2) * constant))``.

    Args:
        constant: the data set's mean object size in pixels.
        reduction, loss_weight: as for :class:`SimilarityLoss`.
    """

    def __init__(
        self, constant: float = 12.8, reduction: str = "mean", loss_weight: float = 1.0
    ) -> None:
        super().__init__({"type": "nwd", "constant": constant}, reduction, loss_weight)
