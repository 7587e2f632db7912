"""The products of the high gate, Eq. 6 commuted: GEMMs of the library in its fastest form for a GPU.

Nine 1x1 convolutions at the low resolution are one product ``[N h w, C] . [C, 9 D]``, and so are their
adjoints. Tensor cores take operands of half precision and accumulate in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.kernels import accumulate_dtype
from ..ops.layout import in_format, is_channels_last


def _operands(p_high: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of the taps: pixels ``[N h w, C]`` and the weight's matrix ``[9 D, C]``.

    The interpreter's tensors lie on a CPU, whose library has no product of halves with a wider result.
    """
    n, c, h, w = p_high.shape
    pixels = p_high.permute(0, 2, 3, 1).reshape(n * h * w, c)
    matrix = weight.permute(2, 3, 0, 1).reshape(-1, c)
    if p_high.is_cuda:
        return pixels, matrix
    acc = accumulate_dtype(p_high.dtype)
    return pixels.to(acc), matrix.to(acc)


def _product(a: Tensor, b: Tensor, out_dtype: torch.dtype) -> Tensor:
    """``a @ b`` with a result of ``out_dtype``, which is wider than half-precision operands."""
    if a.dtype == out_dtype:
        return a @ b
    return torch.mm(a, b, out_dtype=out_dtype)


def taps(p_high: Tensor, weight: Tensor) -> Tensor:
    """Tap maps ``[N, h, w, 9, D]``: ``V = W[9D x C] . P[C x hw]``."""
    n, _, h, w = p_high.shape
    pixels, matrix = _operands(p_high, weight)
    product = _product(pixels, matrix.t(), accumulate_dtype(p_high.dtype))
    return product.view(n, h, w, 9, weight.shape[0])


def taps_backward(grad_taps: Tensor, p_high: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``p_high`` and of the weight."""
    n, c, h, w = p_high.shape
    pixels, matrix = _operands(p_high, weight)
    grad = grad_taps.view(n * h * w, matrix.shape[0]).to(matrix.dtype)
    grad_matrix = _product(grad.t(), pixels, accumulate_dtype(p_high.dtype))
    grad_weight = grad_matrix.view(3, 3, -1, c).permute(2, 3, 0, 1)
    like_weight = torch.empty_strided(
        weight.shape, weight.stride(), dtype=grad_weight.dtype, device=weight.device
    )
    grad_p_high = (grad @ matrix).to(p_high.dtype).view(n, h, w, c).permute(0, 3, 1, 2)
    return in_format(grad_p_high, is_channels_last(p_high)), like_weight.copy_(grad_weight)
