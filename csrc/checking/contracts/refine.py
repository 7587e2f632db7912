"""Fuse, separate and refine, Eq. 7, 5 and 8."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .cem import context_add
from .derivatives import Results, gradients, leaf


def gate_apply(
    p_low: Tensor,
    context: Tensor | None,
    m_high: Tensor,
    m_low: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor,
) -> Results:
    mask = torch.sigmoid(F.conv2d(m_high + m_low, fuse_weight, fuse_bias, padding=1))
    return context_add(p_low, context)[0] * mask, mask


def mask_apply(p_low: Tensor, context: Tensor | None, mask: Tensor) -> Results:
    return (context_add(p_low, context)[0] * mask,)


def mask_apply_backward(
    grad_x: Tensor, p_low: Tensor, context: Tensor | None, mask: Tensor
) -> Results:
    logit = leaf(torch.logit(mask))
    added = p_low.new_zeros(p_low.shape[:2]).requires_grad_()
    total = context_add(p_low, context)[0] + added[:, :, None, None]
    grad_logit, grad_context = gradients(total * torch.sigmoid(logit), (logit, added), grad_x)
    return grad_logit, None if context is None else grad_context


def mask_merge_(grad_p_low: Tensor, grad_x: Tensor, mask: Tensor) -> Results:
    return (grad_p_low + grad_x * mask,)


def bias_relu_(x: Tensor, bias: Tensor) -> Results:
    return (torch.relu(x + bias[:, None, None]),)


def fuse_backward(
    grad_logit: Tensor, m_high: Tensor, m_low: Tensor, fuse_weight: Tensor
) -> Results:
    leaves = leaf(m_high + m_low), leaf(fuse_weight)
    return *gradients(F.conv2d(*leaves, padding=1), leaves, grad_logit), grad_logit.sum()[None]


def relu_backward(grad_out: Tensor, out: Tensor) -> Results:
    grad = torch.where(out <= 0, 0.0, grad_out)
    return grad, grad.sum((0, 2, 3))
