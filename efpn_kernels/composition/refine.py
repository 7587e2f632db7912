"""Fuse, separate and refine of FBSM, Eq. 7, 5 and 8: from the two gates to the output."""

from __future__ import annotations

import torch
from torch import Tensor

from .convolution import convolve, convolve_backward, convolve_relu
from .target import Target


def forward(
    target: Target,
    p_low: Tensor,
    context: Tensor | None,
    m_high: Tensor,
    m_low: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor,
    refine_weight: Tensor,
    refine_bias: Tensor,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """``(out, mask)``."""
    kernels = target.kernels
    single = fuse_weight.shape[0] == 1
    if target.fuses_convolutions(p_low):
        if single:
            mask = kernels.fuse_mask(m_high, m_low, fuse_weight, fuse_bias)
        else:
            mask = channel_mask(target, m_high, m_low, fuse_weight, fuse_bias, channels_last)
        return kernels.refine_conv(p_low, context, mask, refine_weight, refine_bias), mask
    if single:
        x, mask = kernels.gate_apply(p_low, context, m_high, m_low, fuse_weight, fuse_bias)
        return convolve_relu(target, x, refine_weight, refine_bias, channels_last), mask
    mask = channel_mask(target, m_high, m_low, fuse_weight, fuse_bias, channels_last)
    x = kernels.mask_apply(p_low, context, mask)
    return convolve_relu(target, x, refine_weight, refine_bias, channels_last), mask


def channel_mask(
    target: Target,
    m_high: Tensor,
    m_low: Tensor,
    weight: Tensor,
    bias: Tensor,
    channels_last: bool,
) -> Tensor:
    """``sigmoid(conv3x3(m_high + m_low))``: a mask per channel."""
    if target.fuses_channel_gates(m_high):
        return target.kernels.fuse_conv(m_high, m_low, weight, bias)
    return torch.sigmoid_(convolve(m_high + m_low, weight, bias, 1, channels_last))


def gradients(
    target: Target,
    grad_out: Tensor,
    out: Tensor,
    p_low: Tensor,
    context: Tensor | None,
    mask: Tensor,
    weight: Tensor,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the convolution's input, of its weight and its bias."""
    kernels = target.kernels
    if target.fuses_convolutions(p_low):
        return kernels.refine_conv_backward(grad_out, out, p_low, context, mask, weight)
    x = kernels.mask_apply(p_low, context, mask)
    grad, grad_bias = kernels.relu_backward(grad_out, out)
    grad_x, grad_weight, _ = convolve_backward(grad, x, weight, 1, channels_last, False)
    return grad_x, grad_weight, grad_bias


def fuse_gradients(
    target: Target,
    grad_logit: Tensor,
    m_high: Tensor,
    m_low: Tensor,
    weight: Tensor,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``m_high`` (and equally of ``m_low``), of the fuse weight and bias."""
    if weight.shape[0] == 1:
        return target.kernels.fuse_backward(grad_logit, m_high, m_low, weight)
    if target.fuses_channel_gates(grad_logit):
        return target.kernels.fuse_conv_backward(grad_logit, m_high, m_low, weight)
    return convolve_backward(grad_logit, m_high + m_low, weight, 1, channels_last, True)
