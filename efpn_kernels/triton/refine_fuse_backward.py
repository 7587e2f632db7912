"""FBSM, the backward of the fuse convolution, Eq. 7; bytes and times stand in ``gate_apply``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import settings
from .launch import chunks, launch, power_of_2
from .reduce import split_sum
from .refine_gate_apply import load_neighbour
from .settings import REDUCTION_PROGRAMS


@triton.jit
def fuse_bwd_kernel(
    grad_logit_ptr,
    m_high_ptr,
    m_low_ptr,
    fuse_weight_ptr,
    grad_sum_ptr,
    partial_ptr,
    H,
    W,
    HW,
    tiles,
    PIXELS: tl.constexpr,
):
    """The fuse convolution's gradients: grad_sum by gathering, partial sums ``[programs, 10]``."""
    ACC: tl.constexpr = grad_sum_ptr.dtype.element_ty
    n = tl.program_id(1).to(tl.int64)
    grad_logit = grad_logit_ptr + n * HW
    m_high = m_high_ptr + n * HW
    m_low = m_low_ptr + n * HW
    column = tl.arange(0, 16)
    sums = tl.zeros([16], ACC)
    for tile in range(tl.program_id(0) * tiles, (tl.program_id(0) + 1) * tiles):
        p = tile * PIXELS + tl.arange(0, PIXELS)
        y = p // W
        x = p % W
        centre = load_neighbour(grad_logit, y, x, H, W)
        grad_sum = tl.zeros([PIXELS], ACC)
        for tap in tl.static_range(9):
            dy = tap // 3 - 1
            dx = tap % 3 - 1
            weight = tl.load(fuse_weight_ptr + tap).to(ACC)
            grad_sum += weight * load_neighbour(grad_logit, y - dy, x - dx, H, W)
            fused = load_neighbour(m_high, y + dy, x + dx, H, W)
            fused += load_neighbour(m_low, y + dy, x + dx, H, W)
            sums += tl.where(column == tap, tl.sum(centre * fused, axis=0), 0.0)
        sums += tl.where(column == 9, tl.sum(centre, axis=0), 0.0)
        tl.store(grad_sum_ptr + n * HW + p, grad_sum, p < HW)
    program = n * tl.num_programs(0) + tl.program_id(0)
    tl.store(partial_ptr + program * 10 + column, sums, column < 10)


def fuse_backward(
    grad_logit: Tensor, m_high: Tensor, m_low: Tensor, fuse_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """grad_sum ``[N, 1, H, W]``, grad_fuse_weight ``[1, 1, 3, 3]``, grad_fuse_bias ``[1]``."""
    N, _, H, W = grad_logit.shape
    grad_sum = torch.empty_like(grad_logit)
    limits = settings.find("fuse_bwd", grad_logit)
    pixels = power_of_2(H * W, limits.columns)
    tiles, count = chunks(H * W, pixels, max(REDUCTION_PROGRAMS // max(N, 1), 1))
    partial = grad_logit.new_empty(N * count, 10)
    if grad_logit.numel():
        launch(
            fuse_bwd_kernel,
            (count, N),
            grad_logit,
            m_high,
            m_low,
            fuse_weight,
            grad_sum,
            partial,
            H,
            W,
            H * W,
            tiles,
            PIXELS=pixels,
            num_warps=limits.warps,
        )
    grad_weight, grad_bias = split_sum(partial, 9, 1)
    return grad_sum, grad_weight.view(1, 1, 3, 3), grad_bias
