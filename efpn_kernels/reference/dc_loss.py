"""Dynamic Gradient-Balanced Loss (DCLoss) in plain PyTorch: Eq. 9-10 of the paper."""

from __future__ import annotations

from typing import Any

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
            or a tensor of one element, whose dtype is ignored.

    Returns:
        A scalar, or the shape of ``pred`` with ``reduction="none"``.
    """
    error = (pred - target).abs()  # epsilon
    sign = 1.0 if form == "equation" else -1.0
    x = sign * k * (error - delta)
    alpha, beta = torch.sigmoid(x), torch.sigmoid(-x)  # Eq. 10; beta is 1 - alpha, not rounded away
    loss = alpha * error**2 + beta * error  # Eq. 9
    if weight is not None:
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    # The sum of halves may be beyond them where the mean is not.
    halves = loss.dtype in (torch.float16, torch.bfloat16)
    total = loss.sum(dtype=torch.float32 if halves else loss.dtype)
    # The mean of nothing is zero here, as detection losses need it (no positive sample).
    divisor = max(loss.numel(), 1) if avg_factor is None else avg_factor
    return (total / divisor).to(loss.dtype).reshape(())


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
        parameter_shape: of ``k`` and ``delta``: ``()``, or ``(1,)`` for what takes no scalar parameters,
            as FSDP. Checkpoints of either shape load.
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
        parameter_shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.form = form
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.learnable = learnable
        self.k_range = k_range
        self.delta_range = delta_range
        self.initial = {"k": float(k), "delta": float(delta)}
        for name in self.initial:
            if learnable:
                setattr(self, name, nn.Parameter(torch.empty(parameter_shape)))
            else:
                self.register_buffer(name, torch.empty(parameter_shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set ``k`` and ``delta`` to their initial values, in place."""
        with torch.no_grad():
            for name, value in self.initial.items():
                getattr(self, name).fill_(value)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        for name in self.initial:
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor) and saved.numel() == 1:
                state_dict[prefix + name] = saved.reshape(getattr(self, name).shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def project_parameters(self) -> None:
        """Clamp ``k`` and ``delta`` to their ranges, in place.

        Through ``.data``: a head may call the loss several times before its backward, which needs the
        values of each call, and after the first the projection changes nothing.
        """
        if self.k_range is not None:
            self.k.data.clamp_(*self.k_range)
        if self.delta_range is not None:
            self.delta.data.clamp_(*self.delta_range)

    def scalars(self) -> tuple[Tensor, Tensor]:
        """``k`` and ``delta`` for a call: in training they are projected to their ranges first.

        A graph that is exported changes no parameter. There only the values are projected, with the same
        gradients.
        """
        k, delta = self.k, self.delta
        if self.training and (self.k_range is not None or self.delta_range is not None):
            if torch.compiler.is_exporting():
                k, delta = _projected(k, self.k_range), _projected(delta, self.delta_range)
            else:
                self.project_parameters()
        return (k, delta) if k.dim() == 0 else (k.reshape(()), delta.reshape(()))

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Elementwise or reduced loss; the arguments of mmdet's regression losses."""
        k, delta = self.scalars()
        reduction = self.reduction if reduction_override is None else reduction_override
        loss = dc_loss(pred, target, k, delta, weight, self.form, reduction, avg_factor)
        return self.loss_weight * loss


def _projected(x: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    """The value of ``x`` within ``bounds``, differentiated as ``x`` itself."""
    return x if bounds is None else x.detach().clamp(*bounds) + (x - x.detach())
