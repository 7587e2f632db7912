"""Fuse, separate and refine of FBSM, Eq. 7, 5 and 8: from the two gates to the output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import convolution


def forward(
    namespace: str,
    p_low: Tensor,
    context: Tensor | None,
    m_high: Tensor,
    m_low: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor,
    refine_weight: Tensor,
    refine_bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """``(out, mask)``."""
    kernels = getattr(torch.ops, namespace)
    fused = convolution.fused(namespace, "refine_conv", p_low)
    single = fuse_weight.shape[0] == 1
    if single and not fused:
        x, mask = kernels.gate_apply(p_low, context, m_high, m_low, fuse_weight, fuse_bias)
        return convolution.conv3x3_relu(namespace, x, refine_weight, refine_bias), mask
    if single:
        mask = kernels.fuse_mask(m_high, m_low, fuse_weight, fuse_bias)
    else:
        weight, bias = fuse_weight.to(m_high.dtype), fuse_bias.to(m_high.dtype)
        mask = convolution.conv3x3(m_high + m_low, weight, bias).sigmoid_()
    if fused:
        return kernels.refine_conv(p_low, context, mask, refine_weight, refine_bias), mask
    x = kernels.mask_apply(p_low, context, mask)
    return convolution.conv3x3_relu(namespace, x, refine_weight, refine_bias), mask


def refine_backward(
    namespace: str,
    grad_out: Tensor,
    out: Tensor,
    p_low: Tensor,
    context: Tensor | None,
    mask: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the convolution's input, of its weight and its bias."""
    kernels = getattr(torch.ops, namespace)
    if convolution.fused(namespace, "refine_conv_backward", p_low):
        return kernels.refine_conv_backward(grad_out, out, p_low, context, mask, weight)
    x = kernels.mask_apply(p_low, context, mask)
    grad, grad_bias = kernels.relu_backward(grad_out, out)
    grad_x, grad_weight, _ = convolution.conv3x3_backward(grad, x, weight)
    return grad_x, grad_weight, grad_bias


def fuse_backward(
    kernels: Any, grad_logit: Tensor, m_high: Tensor, m_low: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``m_high`` (and equally of ``m_low``), of the fuse weight and bias."""
    if weight.shape[0] == 1:
        return kernels.fuse_backward(grad_logit, m_high, m_low, weight)
    return convolution.conv3x3_backward(grad_logit, m_high + m_low, weight, with_bias=True)
