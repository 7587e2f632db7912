"""The high gate of FBSM, Eq. 6, at the low resolution: products around the upsampling kernels.

The upsampling commutes with the channel mixing, so the 3x3 convolution of the upsampled map is nine
1x1 products at the low resolution, then an interpolation of the nine tap maps (csrc/derivation.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .convolution import convolve, convolve_backward
from .target import Target


def forward(
    target: Target,
    p_high: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    size: tuple[int, int],
    channels_last: bool,
) -> Tensor:
    """``M_h``: a gate ``[N, 1, H, W]``, or a map ``[N, G, H, W]`` for a gate per channel."""
    kernels = target.kernels
    taps = kernels.taps(p_high, conv_weight)
    if gate_weight.shape[0] == 1:
        return kernels.upsampled_gate(taps, conv_bias, gate_weight.flatten(), gate_bias, *size)
    hidden = kernels.upsampled_relu(taps, conv_bias, *size, channels_last)
    return pointwise_gate(target, hidden, gate_weight, gate_bias, channels_last)


def gradients(
    target: Target,
    grad_gate: Tensor,
    m_high: Tensor,
    p_high: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    gate_weight: Tensor,
    channels_last: bool,
) -> tuple[Tensor, ...]:
    """Of ``p_high``, ``conv_weight``, ``conv_bias``, ``gate_weight`` and ``gate_bias``."""
    kernels = target.kernels
    taps = kernels.taps(p_high, conv_weight)
    if gate_weight.shape[0] == 1:
        grad_taps, grad_bias, grad_gate_weight, grad_gate_bias = kernels.upsampled_gate_backward(
            grad_gate, m_high, taps, conv_bias, gate_weight.flatten()
        )
    else:
        hidden = kernels.upsampled_relu(taps, conv_bias, *m_high.shape[2:], channels_last)
        grad_hidden, grad_gate_weight, grad_gate_bias = pointwise_gate_gradients(
            target, grad_gate, m_high, hidden, gate_weight, channels_last
        )
        grad_taps, grad_bias = kernels.upsampled_relu_backward(grad_hidden, taps, conv_bias)
    grad_p_high, grad_weight = kernels.taps_backward(grad_taps, p_high, conv_weight)
    return grad_p_high, grad_weight, grad_bias, grad_gate_weight, grad_gate_bias


def pointwise_gate(
    target: Target, hidden: Tensor, weight: Tensor, bias: Tensor, channels_last: bool
) -> Tensor:
    """``sigmoid(conv1x1(hidden))``: a gate per channel."""
    if target.fuses_channel_gates(hidden):
        return target.kernels.pointwise_gate_conv(hidden, weight, bias, channels_last)
    return convolve(hidden, weight, bias, 0, channels_last).sigmoid_()


def pointwise_gate_gradients(
    target: Target,
    grad_gate: Tensor,
    gate: Tensor,
    hidden: Tensor,
    weight: Tensor,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``hidden``, the weight and the bias of :func:`pointwise_gate`."""
    if target.fuses_channel_gates(hidden):
        return target.kernels.pointwise_gate_conv_backward(grad_gate, gate, hidden, weight)
    grad_logit = torch.ops.aten.sigmoid_backward(grad_gate, gate)
    return convolve_backward(grad_logit, hidden, weight, 0, channels_last, True)
