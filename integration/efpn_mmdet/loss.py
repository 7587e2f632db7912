"""DCLoss in mmdet's registry, for RPN, RoI and dense heads."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

import efpn_kernels

# Heads that call `loss_bbox` on boxes in pixels, or want one loss for a box, whatever their settings.
_ON_PIXELS = {
    *(
        "ATSSHead",
        "CenterNetUpdateHead",
        "DDODHead",
        "FCOSHead",
        "FSANetHead",
        "GFLHead",
        "YOLOFHead",
        "YOLOXHead",
    ),
}
# Those that decode, and divide by the image's size.
_ON_FRACTIONS = {"DIIHead"}


@MODELS.register_module()
class DCLoss(efpn_kernels.DCLoss):
    """Dynamic Gradient-Balanced Loss (Eq. 9-10) as a regression loss of mmdet.

    Takes the arguments of :class:`efpn_kernels.DCLoss`. ``k`` and ``delta`` are parameters of the
    head, so they reach the optimiser and the checkpoint (``<head>.loss_bbox.k``). Without positive
    samples the loss is a zero with a graph: ``k`` and ``delta`` get zero gradients.

    It is meant for errors of order one, of encoded boxes. A head that calls its regression loss on boxes in
    pixels refuses it with a ``ValueError`` while it is built: errors of tens of pixels make it a plain square,
    whose gradients end in NaN after a few steps.
    """

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss of ``pred`` against ``target``, both ``[n, 4]`` or any one shape.

        Args:
            pred: predictions.
            target: targets.
            weight: ``[n, 4]``, or ``[n]`` for one weight per row.
            avg_factor: with the reduction "mean", the divisor of the sum; with "none" it has no
                effect, as in mmdet.
            reduction_override: "none", "mean" or "sum" instead of the module's own.

        Raises:
            ValueError: ``avg_factor`` with the reduction "sum".
        """
        reduction = reduction_override or self.reduction
        if weight is not None and weight.dim() == pred.dim() - 1:
            weight = weight.unsqueeze(-1)
        divisor = None if reduction == "none" else _not_below_eps(avg_factor)
        return super().forward(pred, target, weight, divisor, reduction_override=reduction)


def _not_below_eps(avg_factor: float | Tensor | None) -> float | Tensor | None:
    """No sample at all gives a zero sum and a zero factor; their quotient shall be zero."""
    if avg_factor is None:
        return None
    eps = torch.finfo(torch.float32).eps
    if isinstance(avg_factor, Tensor):
        return avg_factor.clamp(min=eps)
    return max(avg_factor, eps)


def dc_losses(model: nn.Module) -> dict[str, DCLoss]:
    """Every DCLoss of a model, by name."""
    return {name: one for name, one in model.named_modules() if isinstance(one, DCLoss)}


def _check_head(head: nn.Module, name: str, loss: nn.Module | None) -> None:
    """Refuses a DCLoss as the box loss of a head that calls it on boxes in pixels."""
    if not isinstance(loss, DCLoss) or not name.startswith("loss_bbox"):
        return
    classes = {one.__name__ for one in type(head).__mro__}
    if classes & _ON_FRACTIONS:
        return
    fixed = classes & _ON_PIXELS
    if fixed or getattr(head, "reg_decoded_bbox", False):
        way_out = "keep an IoU loss" if fixed else "set reg_decoded_bbox=False, or keep an IoU loss"
        raise ValueError(
            f"{name}: expected a head that regresses encoded boxes with DCLoss, got {type(head).__name__}, "
            f"which calls it on boxes in pixels or wants one loss for each; {way_out}"
        )


# A loss does not know its head. PyTorch says so when a head takes its loss, while it is built.
register_module_module_registration_hook(_check_head)
