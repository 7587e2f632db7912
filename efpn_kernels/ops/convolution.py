"""The two full-resolution 3x3 convolutions: the backend's fused ones, or the library's.

A fused convolution (``FUSED_CONVOLUTIONS`` of :mod:`.kernels`) takes in the passes before and behind
it. Which of the two runs depends on the backend, the dtype and the memory format only.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import as_format, memory_format


@lru_cache
def _provided(namespace: str, name: str, device_type: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        f"{namespace}::{name}", device_type.upper()
    )


def fused(namespace: str, name: str, x: Tensor) -> bool:
    """Whether the fused convolution ``name`` of ``namespace`` runs for the map ``x``.

    On a CPU it is Winograd in float32, faster than the library in both formats and directions.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and _provided(namespace, name, x.device.type)
    )


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The library's 3x3 convolution with padding 1; the result has the format of ``x``."""
    weight = weight.contiguous(memory_format=memory_format(x))
    return as_format(F.conv2d(x, weight, bias, padding=1), x)


def conv3x3_relu(namespace: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``relu(conv3x3(x, weight) + bias)``; the result has the format of ``x``.

    On a GPU PyTorch adds the bias in a pass of its own, slowly, before that of the ReLU; here one pass
    of ours does both, in place. cuDNN's fused ReLU would need none, but it turns NaN into 0.
    """
    if not x.is_cuda:
        return conv3x3(x, weight, bias).relu_()
    out = conv3x3(x, weight)
    getattr(torch.ops, namespace).bias_relu_(out, bias)
    return out


def conv3x3_backward(
    grad: Tensor, x: Tensor, weight: Tensor, with_bias: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x`` (in its format), of ``weight`` and, if asked for, of the bias."""
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight.contiguous(memory_format=memory_format(x)),
        [weight.shape[0]] if with_bias else None,
        [1, 1],
        [1, 1],
        [1, 1],
        False,
        [0, 0],
        1,
        [True, True, with_bias],
    )
    return as_format(grad_x, x), grad_weight, grad_bias
