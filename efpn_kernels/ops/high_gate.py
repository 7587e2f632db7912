"""The high gate of FBSM, Eq. 6, at the low resolution: GEMMs around the upsampling kernels.

The upsampling commutes with the channel mixing, so the 3x3 convolution of the upsampled map is nine
1x1 products at the low resolution, then an interpolation of the nine tap maps (csrc/derivation.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .kernels import accumulate_dtype
from .layout import as_format


def _matrix(weight: Tensor) -> Tensor:
    """``[D, C, 3, 3] -> [9 D, C]``, rows ordered as the taps ``[9, D]``."""
    d, c = weight.shape[:2]
    return weight.permute(2, 3, 0, 1).reshape(9 * d, c)


def _pixels(p_high: Tensor) -> Tensor:
    """``[N, C, h, w] -> [N h w, C]``."""
    n, c, h, w = p_high.shape
    return p_high.permute(0, 2, 3, 1).reshape(n * h * w, c)


def _product(a: Tensor, b: Tensor, out_dtype: torch.dtype) -> Tensor:
    """``a @ b`` with a result of ``out_dtype``, which is wider than half-precision operands."""
    if a.dtype == out_dtype:
        return a @ b
    return torch.mm(a, b, out_dtype=out_dtype)


def operands(p_high: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of the taps: pixels ``[N h w, C]`` and the weight's matrix ``[9 D, C]``.

    A CPU multiplies in the accumulation dtype, a GPU's tensor cores take halves and accumulate.
    """
    pixels, matrix = _pixels(p_high), _matrix(weight)
    if p_high.is_cuda:
        return pixels, matrix
    acc = accumulate_dtype(p_high.dtype)
    return pixels.to(acc), matrix.to(acc)


def taps(p_high: Tensor, pixels: Tensor, matrix: Tensor) -> Tensor:
    """Tap maps ``[N, h, w, 9, D]`` in the accumulation dtype: ``V = W[9D x C] . P[C x hw]``."""
    n, _, h, w = p_high.shape
    product = _product(pixels, matrix.t(), accumulate_dtype(p_high.dtype))
    return product.view(n, h, w, 9, matrix.shape[0] // 9)


def taps_backward(
    grad_taps: Tensor, p_high: Tensor, pixels: Tensor, matrix: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of ``p_high`` (a map of its format and dtype) and of the weight ``[D, C, 3, 3]``.

    The weight's is in the accumulation dtype, with strides of its own.
    """
    n, c, h, w = p_high.shape
    rows = matrix.shape[0]
    grad = grad_taps.view(n * h * w, rows).to(matrix.dtype)
    grad_matrix = _product(grad.t(), pixels, accumulate_dtype(p_high.dtype))
    grad_weight = grad_matrix.view(3, 3, rows // 9, c).permute(2, 3, 0, 1)
    grad_p_high = (grad @ matrix).to(p_high.dtype).view(n, h, w, c).permute(0, 3, 1, 2)
    return as_format(grad_p_high, p_high), grad_weight


def forward(
    kernels: Any,
    p_high: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    size: tuple[int, int],
    channels_last: bool,
) -> Tensor:
    """``M_h``: a gate ``[N, 1, H, W]``, or a map ``[N, G, H, W]`` for a mask per channel."""
    v = taps(p_high, *operands(p_high, conv_weight))
    if gate_weight.shape[0] == 1:
        return kernels.upsampled_gate(v, conv_bias, gate_weight.flatten(), gate_bias, *size)
    hidden = kernels.upsampled_relu(v, conv_bias, *size, channels_last)
    return as_format(torch.conv2d(hidden, gate_weight, gate_bias), hidden).sigmoid_()


def backward(
    kernels: Any,
    grad_gate: Tensor,
    m_high: Tensor,
    p_high: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    gate_weight: Tensor,
    channels_last: bool,
) -> tuple[Tensor, ...]:
    """Gradients of ``p_high``, ``conv_weight``, ``conv_bias``, ``gate_weight`` and ``gate_bias``."""
    factors = operands(p_high, conv_weight)
    v = taps(p_high, *factors)
    if gate_weight.shape[0] == 1:
        grad_taps, grad_bias, grad_gate_weight, grad_gate_bias = kernels.upsampled_gate_backward(
            grad_gate, m_high, v, conv_bias, gate_weight.flatten()
        )
    else:
        hidden = kernels.upsampled_relu(v, conv_bias, *m_high.shape[2:], channels_last)
        grad_hidden, grad_gate_weight, grad_gate_bias = pointwise_gate_backward(
            grad_gate, m_high, hidden, gate_weight
        )
        grad_taps, grad_bias = kernels.upsampled_relu_backward(grad_hidden, v, conv_bias)
    grad_p_high, grad_weight = taps_backward(grad_taps, p_high, *factors)
    return grad_p_high, grad_weight, grad_bias, grad_gate_weight, grad_gate_bias


def pointwise_gate_backward(
    grad_gate: Tensor, gate: Tensor, hidden: Tensor, gate_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward of ``sigmoid(conv1x1(hidden))`` for a mask per channel."""
    grad_logit = torch.ops.aten.sigmoid_backward(grad_gate, gate)
    grad_hidden, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad_logit,
        hidden,
        gate_weight,
        [gate_weight.shape[0]],
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        [True, True, True],
    )
    return as_format(grad_hidden, hidden), grad_weight, grad_bias
