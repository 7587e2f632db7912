"""Dynamic Gradient-Balanced Loss (DCLoss) in plain PyTorch: Eq. 9-10 of the paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FORMS = ("equation", "text")
REDUCTIONS = ("none", "mean", "sum")


def dc_loss(
    pred: Tensor,
    target: Tensor,
    k: Tensor,
    delta: Tensor,
    weight: Tensor | None = None,
    form: str = "equation",
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Sigmoid-weighted mixture of the squared and the absolute error, Eq. 9-10.

    Args:
        pred: predictions, any shape.
        target: targets, the shape of ``pred``.
        k: slope of the transition, a tensor with one element.
        delta: error at the transition, a tensor with one element.
        weight: elementwise weights, broadcastable to ``pred``.
        form: ``"equation"`` is Eq. 9-10 as printed (L1 for small errors, L2 for large);
            ``"text"`` turns the gate round, as the paper's text and Fig. 6 describe.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        avg_factor: with ``"mean"``, divide the sum by this instead of the number of elements: a number
            or a tensor of one element, whose dtype does not count.

    Returns:
        A scalar, or the shape of ``pred`` with ``reduction="none"``.
    """
    error = (pred - target).abs()  # epsilon
    sign = 1.0 if form == "equation" else -1.0
    alpha = torch.sigmoid(sign * k * (error - delta))  # Eq. 10
    loss = alpha * error**2 + (1 - alpha) * error  # Eq. 9
    if weight is not None:
        loss = loss * weight
    if reduction == "none":
        return loss
    total = loss.sum()
    if reduction == "sum":
        return total
    if avg_factor is None:
        # The mean of nothing is zero here, as detection losses need it (no positive sample).
        return total / max(loss.numel(), 1)
    return (total / avg_factor).to(total.dtype).reshape(())


class DCLoss(nn.Module):
    """Dynamic Gradient-Balanced Loss, Eq. 9-10, with learnable ``k`` and ``delta``.

    Args:
        k: initial slope of the transition, positive.
        delta: initial error at the transition.
        learnable: whether ``k`` and ``delta`` are parameters (else buffers).
        form: ``"equation"`` (Eq. 9-10) or ``"text"`` (the direction that the paper's text claims).
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        loss_weight: factor on the result.
        k_range: ``(low, high)`` to which ``k`` is projected before each training forward.
        delta_range: the same for ``delta``.
    """

    def __init__(
        self,
        k: float = 10.0,
        delta: float = 0.15,
        learnable: bool = True,
        form: str = "equation",
        reduction: str = "mean",
        loss_weight: float = 1.0,
        k_range: tuple[float, float] | None = None,
        delta_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.form = form
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.learnable = learnable
        self.k_range = k_range
        self.delta_range = delta_range
        for name, value in (("k", k), ("delta", delta)):
            if learnable:
                setattr(self, name, nn.Parameter(torch.tensor(float(value))))
            else:
                self.register_buffer(name, torch.tensor(float(value)))

    def project_parameters(self) -> None:
        """Clamp ``k`` and ``delta`` to their ranges, in place.

        Through ``.data``: a head may call the loss several times before its backward, which needs the
        values of each call, and after the first the projection changes nothing.
        """
        if self.k_range is not None:
            self.k.data.clamp_(*self.k_range)
        if self.delta_range is not None:
            self.delta.data.clamp_(*self.delta_range)

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Elementwise or reduced loss; the arguments of mmdet's regression losses."""
        if self.training:
            self.project_parameters()
        reduction = self.reduction if reduction_override is None else reduction_override
        loss = dc_loss(pred, target, self.k, self.delta, weight, self.form, reduction, avg_factor)
        return self.loss_weight * loss
