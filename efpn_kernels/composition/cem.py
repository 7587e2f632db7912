"""CEM, Eq. 1-4, from the kernels of a target."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..ops.layout import dense, in_format, is_channels_last, memory_format
from .parameter_gradients import like_parameters
from .target import Target, checked


def zero_map(p_high: Tensor) -> Tensor:
    """Zeros of the shape, dtype and format of ``p_high``."""
    form = memory_format(is_channels_last(p_high))
    return torch.zeros_like(p_high, memory_format=form)


def forward(
    target: Target,
    p_low: Tensor,
    p_high: Tensor,
    weight: Tensor,
    bias: Tensor,
    channels_last: bool = False,
    save: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """``(out, state)``, with ``context``, ``pooled`` and ``index`` for a state."""
    checked("cem", checks.cem, p_low, p_high, weight, bias)
    state = target.kernels.pooled_context(
        dense(p_high), weight.contiguous().flatten(1), bias.contiguous()
    )
    out = target.kernels.context_add(in_format(p_low, channels_last), state[0])
    return out, list(state) if save else []


def backward(
    target: Target,
    grad_out: Tensor,
    p_high: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: list[Tensor],
    grad_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``p_high``, ``weight`` and ``bias``."""
    grad_p_high = zero_map(p_high)
    grads = target.kernels.pooled_context_backward(
        target.kernels.spatial_sum(dense(grad_out)),
        *state,
        weight.contiguous().flatten(1),
        grad_p_high,
    )
    return grad_p_high, *like_parameters(grads, (weight, bias), grad_dtype)
