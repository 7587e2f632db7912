"""The low gate of FBSM, Eq. 6: a convolution of ``p_low`` whose epilogue knows the context.

``conv3x3(p_low + context)`` is ``conv3x3(p_low)`` plus a constant per channel that depends on which
border a pixel touches, so the sum is never written (csrc/derivation.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops.kernels import accumulate_dtype
from .convolution import convolve, convolve_backward
from .high_gate import pointwise_gate, pointwise_gate_gradients
from .target import Target


def _border(
    kernels: Any, p_low: Tensor, context: Tensor | None, weight: Tensor, bias: Tensor, fused: bool
) -> Tensor:
    """What is added to the convolution: ``[N, 3, 3, D]`` by border class.

    Without a context the library's convolution adds the bias itself, before it rounds.
    """
    n, _, height, width = p_low.shape
    if context is not None:
        return kernels.border_bias(context, weight, bias, height, width)
    bias = bias.to(accumulate_dtype(p_low.dtype))
    return (bias if fused else torch.zeros_like(bias)).expand(n, 3, 3, -1).contiguous()


def forward(
    target: Target,
    p_low: Tensor,
    context: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    channels_last: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(M_l, border, hidden)``: the gate, the border's constants, what backward needs of the hidden map."""
    kernels = target.kernels
    single = gate_weight.shape[0] == 1
    fuses = target.fuses_convolutions if single else target.fuses_channel_gates
    fused = fuses(p_low)
    border = _border(kernels, p_low, context, conv_weight, conv_bias, fused)
    if fused and single:
        gate, bits = kernels.low_gate_conv(
            p_low, conv_weight, border, gate_weight.flatten(), gate_bias, save
        )
        return gate, border, bits
    if fused:
        hidden = kernels.low_hidden_conv(p_low, conv_weight, border)
        gate = pointwise_gate(target, hidden, gate_weight, gate_bias, channels_last)
        return gate, border, hidden
    bias = conv_bias if context is None else None
    conv = convolve(p_low, conv_weight, bias, 1, channels_last)
    if single:
        return kernels.low_gate(conv, border, gate_weight.flatten(), gate_bias), border, conv
    hidden = kernels.border_relu(conv, border)
    return pointwise_gate(target, hidden, gate_weight, gate_bias, channels_last), border, hidden


def gradients(
    target: Target,
    grad_gate: Tensor,
    m_low: Tensor,
    border: Tensor,
    hidden: Tensor,
    p_low: Tensor,
    context: Tensor | None,
    conv_weight: Tensor,
    gate_weight: Tensor,
    channels_last: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """Of ``p_low``, ``context``, ``conv_weight``, ``conv_bias``, ``gate_weight``, ``gate_bias``."""
    kernels = target.kernels
    single = gate_weight.shape[0] == 1
    flat = gate_weight.flatten()
    fuses = target.fuses_convolutions if single else target.fuses_channel_gates
    fused = fuses(p_low)
    if not single:
        grad_hidden, grad_gate_weight, grad_gate_bias = pointwise_gate_gradients(
            target, grad_gate, m_low, hidden, gate_weight, channels_last
        )
    if fused and single:
        grad_p_low, grad_weight, grad_border, grad_gate_weight, grad_gate_bias = (
            kernels.low_gate_conv_backward(
                grad_gate, m_low, hidden, p_low, conv_weight, border, flat
            )
        )
    elif fused:
        grad_p_low, grad_weight, grad_border = kernels.low_hidden_conv_backward(
            grad_hidden, hidden, p_low, conv_weight
        )
    else:
        if single:
            grad_conv, grad_border, grad_gate_weight, grad_gate_bias = kernels.low_gate_backward(
                grad_gate, m_low, hidden, border, flat
            )
        else:
            grad_conv, _ = kernels.relu_backward(grad_hidden, hidden)
            grad_border = kernels.border_sum(grad_conv)
        grad_p_low, grad_weight, _ = convolve_backward(
            grad_conv, p_low, conv_weight, 1, channels_last, False
        )
    if context is None:
        # A sum in an order of ours: the classes as the pixels of a map.
        pixels = grad_border.view(1, -1, 1, grad_border.shape[-1]).permute(0, 3, 1, 2)
        grad_context, grad_bias = None, kernels.spatial_sum(pixels)[0]
    else:
        grad_context, grad_weight_of_border, grad_bias = kernels.border_bias_backward(
            grad_border, context, conv_weight, *p_low.shape[2:]
        )
        grad_weight = grad_weight_of_border.add(grad_weight)
    return grad_p_low, grad_context, grad_weight, grad_bias, grad_gate_weight, grad_gate_bias
