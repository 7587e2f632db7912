"""CEM: the pooled context and its broadcast sum, Eq. 1-4."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .derivatives import Results


def pooled_context(p_high: Tensor, weight: Tensor, bias: Tensor) -> Results:
    flat = p_high.flatten(2)
    pooled = flat.amax(-1)
    is_max = (flat == pooled[..., None]) | flat.isnan()
    index = is_max.int().argmax(-1)
    return torch.relu(F.linear(pooled, weight, bias)), pooled, index


def pooled_context_backward(
    grad_context: Tensor,
    context: Tensor,
    pooled: Tensor,
    index: Tensor,
    weight: Tensor,
    grad_p_high: Tensor,
) -> Results:
    grad_z = torch.where(context <= 0, 0.0, grad_context)
    scatter = torch.zeros_like(grad_p_high).flatten(2)
    scatter.scatter_(2, index.long()[..., None], (grad_z @ weight)[..., None])
    merged = grad_p_high + scatter.view_as(grad_p_high)
    return grad_z.T @ pooled, grad_z.sum(0), merged


def context_add(p_low: Tensor, context: Tensor | None) -> Results:
    return (p_low if context is None else p_low + context[:, :, None, None],)


def spatial_sum(x: Tensor) -> Results:
    return (x.sum((2, 3)),)
