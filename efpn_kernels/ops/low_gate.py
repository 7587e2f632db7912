"""The low gate of FBSM, Eq. 6: a convolution of ``p_low`` whose epilogue knows the context.

``conv3x3(p_low + context)`` is ``conv3x3(p_low)`` plus a constant per channel that depends on which
border a pixel touches, so the sum is never written (csrc/derivation.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import convolution
from .high_gate import pointwise_gate_backward
from .kernels import accumulate_dtype
from .layout import as_format


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
    namespace: str,
    p_low: Tensor,
    context: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(M_l, border, kept)``: the gate, the border's constants, and what backward needs of the hidden map.

    Without ``keep`` the last is empty.
    """
    kernels = getattr(torch.ops, namespace)
    single = gate_weight.shape[0] == 1
    fused = single and convolution.fused(namespace, "low_gate_conv", p_low)
    border = _border(kernels, p_low, context, conv_weight, conv_bias, fused)
    if fused:
        gate, kept = kernels.low_gate_conv(
            p_low, conv_weight, border, gate_weight.flatten(), gate_bias, keep
        )
        return gate, border, kept
    conv = convolution.conv3x3(p_low, conv_weight, conv_bias if context is None else None)
    if single:
        gate = kernels.low_gate(conv, border, gate_weight.flatten(), gate_bias)
        return gate, border, conv if keep else conv.new_empty(0)
    hidden = kernels.border_relu(conv, border)
    gate = as_format(torch.conv2d(hidden, gate_weight, gate_bias), hidden).sigmoid_()
    return gate, border, hidden if keep else hidden.new_empty(0)


def backward(
    namespace: str,
    grad_gate: Tensor,
    m_low: Tensor,
    border: Tensor,
    kept: Tensor,
    p_low: Tensor,
    context: Tensor | None,
    conv_weight: Tensor,
    gate_weight: Tensor,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``p_low``, ``context``, ``conv_weight``, ``conv_bias``, ``gate_weight``, ``gate_bias``."""
    kernels = getattr(torch.ops, namespace)
    single = gate_weight.shape[0] == 1
    fused = single and convolution.fused(namespace, "low_gate_conv_backward", p_low)
    flat = gate_weight.flatten()
    if fused:
        grad_p_low, grad_weight, grad_border, grad_gate_weight, grad_gate_bias = (
            kernels.low_gate_conv_backward(grad_gate, m_low, kept, p_low, conv_weight, border, flat)
        )
    else:
        if single:
            grad_conv, grad_border, grad_gate_weight, grad_gate_bias = kernels.low_gate_backward(
                grad_gate, m_low, kept, border, flat
            )
        else:
            grad_hidden, grad_gate_weight, grad_gate_bias = pointwise_gate_backward(
                grad_gate, m_low, kept, gate_weight
            )
            grad_conv = torch.ops.aten.threshold_backward(grad_hidden, kept, 0)
            grad_border = kernels.border_sum(grad_conv)
        grad_p_low, grad_weight, _ = convolution.conv3x3_backward(grad_conv, p_low, conv_weight)
    if context is None:
        # A sum in an order of ours: the classes as the pixels of a map.
        pixels = grad_border.view(1, -1, 1, grad_border.shape[-1]).permute(0, 3, 1, 2)
        grad_context, grad_bias = None, kernels.spatial_sum(pixels)[0]
    else:
        grad_context, grad_weight_of_border, grad_bias = kernels.border_bias_backward(
            grad_border, context, conv_weight, *p_low.shape[2:]
        )
        grad_weight = grad_weight_of_border.add_(grad_weight)
    return grad_p_low, grad_context, grad_weight, grad_bias, grad_gate_weight, grad_gate_bias
