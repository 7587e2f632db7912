"""Gradients of parameters as autograd and DDP want them: the shape, strides and dtype of each parameter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def like_parameters(
    grads: Sequence[Tensor], parameters: Sequence[Tensor], dtype: torch.dtype | None
) -> list[Tensor]:
    """The gradients in ``dtype`` or the parameters' own; what must be copied, by one launch for all."""
    out, targets, sources = [], [], []
    for grad, parameter in zip(grads, parameters, strict=True):
        like = torch.empty_like(parameter, dtype=dtype or parameter.dtype, device="meta")
        grad = grad.view(parameter.shape) if grad.shape != parameter.shape else grad
        if grad.dtype == like.dtype and _same_order(grad, like):
            out.append(grad.as_strided(like.shape, like.stride()))
            continue
        out.append(torch.empty_like(parameter, dtype=like.dtype))
        targets.append(out[-1])
        sources.append(grad)
    if targets:
        torch._foreach_copy_(targets, sources)
    return out


def _same_order(a: Tensor, b: Tensor) -> bool:
    """Whether both lie in memory in the same order."""
    return all(s == t or n == 1 for s, t, n in zip(a.stride(), b.stride(), a.shape, strict=True))
