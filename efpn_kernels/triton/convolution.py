"""The two full-resolution 3x3 convolutions as implicit GEMMs with what stands before and behind them.

A program takes a patch of ``ROWS x COLUMNS`` pixels and ``OUTPUTS`` output channels and sums over nine
taps and blocks of input channels with tensor cores. The operands come through tensor descriptors: a tap
shifts the patch, and what lies outside of the image is read as zero, which is the padding.

- ``low_gate_conv``: adds the border constant, ReLU, 1x1 and sigmoid; all of D is in one program, and
  nothing of ``[N, D, H, W]`` is written (but the convolution itself where backward needs it).
- ``refine_conv``: forms ``(p_low + context) mask`` while loading, adds the bias, ReLU at the store.

For channels_last maps in bfloat16 or float16. At ``[1, 256, 200, 200]``, D = 256, counted from the launches
(``benchmarks/kernels/triton_roofline.md``): 50.4 GFLOP in tensor cores for the gate, 49.1 for the other one,
patches beyond the edge included, 64 and 62 us on an H200; 21.8 MB for a gate alone, else 42.3: 5 or 10 us.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import settings
from .launch import cdiv, power_of_2
from .tile import border_class, relu, sigmoid


@triton.jit
def gated_patch(x, context_ptr, mask_ptr, n, y, x_position, c, H, W, C):
    """``(x + context) mask`` for a patch ``[pixels, channels]``; the mask is zero outside of the image."""
    at = (tl.cast(n, tl.int64) * H + y) * W + x_position
    inside = (y >= 0) & (y < H) & (x_position >= 0) & (x_position < W)
    mask = tl.load(mask_ptr + at, inside, other=0.0)
    context = tl.load(context_ptr + tl.cast(n, tl.int64) * C + c, c < C, other=0.0)
    return ((x.to(tl.float32) + context[None, :]) * mask[:, None]).to(x.dtype)


@triton.jit
def add_border(total, border_ptr, d, y, x, H, W, D, dtype: tl.constexpr):
    """``total [D, pixels] + border[class]``, as one more step of the GEMM.

    One factor is the border, split into three parts that dtype holds exactly, the other the class of
    each pixel, one-hot. A gathered tile of the border beside the accumulators would spill registers.
    """
    k = tl.arange(0, 64)
    border_class_of_k = k % 16
    inside = (d < D)[:, None] & (border_class_of_k < 9)[None, :]
    border = tl.load(border_ptr + border_class_of_k[None, :] * D + d[:, None], inside, other=0.0)
    high = border.to(dtype)
    rest = border - high.to(tl.float32)
    middle = rest.to(dtype)
    low = (rest - middle.to(tl.float32)).to(dtype)
    part = (k // 16)[None, :]
    parts = tl.where(part == 0, high, tl.where(part == 1, middle, low))
    pixel_class = 3 * border_class(y, H) + border_class(x, W)
    one_hot = (border_class_of_k[:, None] == pixel_class[None, :]) & (k < 48)[:, None]
    return tl.dot(parts, one_hot.to(dtype), total)


@triton.jit
def conv3x3_kernel(
    x_descriptor,
    weight_descriptor,
    context_ptr,
    mask_ptr,
    bias_ptr,
    gate_weight_ptr,
    gate_bias_ptr,
    gate_ptr,
    out_ptr,
    H,
    W,
    C,
    D,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    OUTPUTS: tl.constexpr,
    GATED_INPUT: tl.constexpr,
    TO_GATE: tl.constexpr,
    STORE: tl.constexpr,
):
    """conv3x3 of x ``[N, H, W, C]`` with weight ``[D, 9, C]``.

    ``GATED_INPUT``: x stands for ``(x + context) mask``. ``TO_GATE``: bias is border ``[N, 9, D]``, and
    the gate is stored, the convolution itself with ``STORE``. Otherwise ``relu(conv + bias)`` is stored.
    """
    d0 = tl.program_id(0) * OUTPUTS
    columns = tl.cdiv(W, COLUMNS)
    y0 = tl.program_id(1) // columns * ROWS
    x0 = tl.program_id(1) % columns * COLUMNS
    n = tl.program_id(2)
    pixel = tl.arange(0, ROWS * COLUMNS)
    y = y0 + pixel // COLUMNS
    x = x0 + pixel % COLUMNS
    total = tl.zeros([OUTPUTS, ROWS * COLUMNS], tl.float32)
    for step in range(0, 9 * tl.cdiv(C, BLOCK_C)):
        tap = step % 9
        c0 = step // 9 * BLOCK_C
        dy = tap // 3 - 1
        dx = tap % 3 - 1
        patch = x_descriptor.load([n, y0 + dy, x0 + dx, c0]).reshape(ROWS * COLUMNS, BLOCK_C)
        if GATED_INPUT:
            c = c0 + tl.arange(0, BLOCK_C)
            patch = gated_patch(patch, context_ptr, mask_ptr, n, y + dy, x + dx, c, H, W, C)
        weight = weight_descriptor.load([d0, tap * C + c0])
        total = tl.dot(weight, patch.T, total)
    inside = (y < H) & (x < W)
    at = (tl.cast(n, tl.int64) * H + y) * W + x
    d = d0 + tl.arange(0, OUTPUTS)
    offsets = at[None, :] * D + d[:, None]
    tile_inside = inside[None, :] & (d < D)[:, None]
    if TO_GATE:
        if STORE:
            tl.store(out_ptr + offsets, total.to(out_ptr.dtype.element_ty), tile_inside)
        total = add_border(
            total,
            bias_ptr + tl.cast(n, tl.int64) * 9 * D,
            d,
            y,
            x,
            H,
            W,
            D,
            weight_descriptor.dtype,
        )
        gate_weight = tl.load(gate_weight_ptr + d, d < D, other=0.0).to(tl.float32)
        hidden = relu(total)
        logit = tl.sum(hidden * gate_weight[:, None], axis=0) + tl.load(gate_bias_ptr).to(
            tl.float32
        )
        tl.store(gate_ptr + at, sigmoid(logit), inside)
    else:
        bias = tl.load(bias_ptr + d, d < D, other=0.0).to(tl.float32)
        refined = relu(total + bias[:, None])
        tl.store(out_ptr + offsets, refined.to(out_ptr.dtype.element_ty), tile_inside)


def can_run(x: Tensor, D: int | None = None) -> bool:
    """Whether these convolutions take the map x (and, for the gate, D hidden channels)."""
    return (
        x.dtype in (torch.bfloat16, torch.float16)
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.shape[1] % 8 == 0
        and (D is None or settings.find("conv3x3", x).outputs >= D)
    )


def launch(
    x: Tensor,
    weight: Tensor,
    context: Tensor | None,
    mask: Tensor | None,
    bias: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    gate: Tensor | None,
    out: Tensor | None,
) -> None:
    """One launch into gate, or into out."""
    N, C, H, W = x.shape
    D = weight.shape[0]
    patch = settings.find("conv3x3", x)
    outputs = max(power_of_2(D, patch.outputs), 16)
    # [N, H, W, C] and [D, 9, C] as they lie in memory; a tap of the weight is one row of channels.
    weight = weight.contiguous(memory_format=torch.channels_last)
    x_descriptor = TensorDescriptor(
        x, [N, H, W, C], [H * W * C, W * C, C, 1], [1, patch.rows, patch.columns, patch.channels]
    )
    weight_descriptor = TensorDescriptor(weight, [D, 9 * C], [9 * C, 1], [outputs, patch.channels])
    grid = (cdiv(D, outputs), cdiv(H, patch.rows) * cdiv(W, patch.columns), N)
    conv3x3_kernel[grid](
        x_descriptor,
        weight_descriptor,
        context,
        mask,
        bias,
        gate_weight,
        gate_bias,
        gate,
        out,
        H,
        W,
        C,
        D,
        ROWS=patch.rows,
        COLUMNS=patch.columns,
        BLOCK_C=patch.channels,
        OUTPUTS=outputs,
        GATED_INPUT=mask is not None,
        TO_GATE=gate is not None,
        STORE=out is not None,
        num_warps=patch.warps,
        num_stages=patch.stages,
    )


def low_gate_conv(
    p_low: Tensor,
    weight: Tensor,
    border: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The gate of ``conv3x3(p_low) + border``; with keep, the convolution too, else no elements."""
    N, _, H, W = p_low.shape
    D = weight.shape[0]
    gate = border.new_empty(N, 1, H, W)
    kept = p_low.new_empty(0)
    if keep:
        kept = torch.empty(
            (N, D, H, W),
            dtype=p_low.dtype,
            device=p_low.device,
            memory_format=torch.channels_last,
        )
    if gate.numel():
        launch(
            p_low,
            weight,
            None,
            None,
            border,
            gate_weight,
            gate_bias,
            gate,
            kept if keep else None,
        )
    return gate, kept


def refine_conv(
    p_low: Tensor, context: Tensor | None, mask: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """``relu(conv3x3((p_low + context) mask) + bias)`` for a gate ``[N, 1, H, W]``."""
    N, C, H, W = p_low.shape
    out = torch.empty(
        (N, weight.shape[0], H, W),
        dtype=p_low.dtype,
        device=p_low.device,
        memory_format=torch.channels_last,
    )
    if context is None:
        context = mask.new_zeros(N, C)
    if out.numel():
        launch(p_low, weight, context, mask, bias, None, None, None, out)
    return out


def relu_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``relu(conv3x3(x) + bias)``."""
    out = torch.empty(
        (x.shape[0], weight.shape[0], *x.shape[2:]),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    if out.numel():
        launch(x, weight, None, None, bias, None, None, None, out)
    return out
