"""The library's convolutions, and their results in the formats that the kernels read."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.layout import in_format
from .target import Target


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, channels_last: bool
) -> Tensor:
    """The convolution with ``padding`` (1 for 3x3, 0 for 1x1), in the format of ``x``."""
    weight = in_format(weight, channels_last)
    return in_format(torch.conv2d(x, weight, bias, padding=padding), channels_last)


def convolve_relu(
    target: Target, x: Tensor, weight: Tensor, bias: Tensor, channels_last: bool
) -> Tensor:
    """``relu(conv3x3(x, weight) + bias)``.

    On a GPU PyTorch adds the bias in a pass of its own, slowly, before that of the ReLU; here one pass
    of ours does both, in place. cuDNN's fused ReLU would need none, but not every version of it keeps NaN.
    """
    if target.library_adds_bias:
        return convolve(x, weight, bias, 1, channels_last).relu_()
    out = convolve(x, weight, None, 1, channels_last)
    target.kernels.bias_relu_(out, bias)
    return out


def convolve_backward(
    grad: Tensor, x: Tensor, weight: Tensor, padding: int, channels_last: bool, with_bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of ``x`` (in its format), of ``weight`` and, if asked for, of the bias."""
    if grad.numel() == 0:  # cuDNN refuses it, or leaves the gradient of the bias as it was
        bias = weight.new_zeros(weight.shape[0]) if with_bias else None
        return in_format(torch.zeros_like(x), channels_last), torch.zeros_like(weight), bias
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad,
        x,
        in_format(weight, channels_last),
        [weight.shape[0]] if with_bias else None,
        [1, 1],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        1,
        [True, True, with_bias],
    )
    return in_format(grad_x, channels_last), grad_weight, grad_bias
