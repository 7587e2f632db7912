"""``cem``: pooled context and its broadcast sum, Eq. 1-4."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import operator
from .call import Operator, cast_all, differentiable
from .kernels import accumulate_dtype
from .layout import dense, empty_map, memory_format

SCHEMA = (
    "(Tensor p_low, Tensor p_high, Tensor weight, Tensor bias)"
    " -> (Tensor out, Tensor context, Tensor pooled, Tensor index)"
)
BACKWARD_SCHEMA = (
    "(Tensor grad_out, Tensor p_high, Tensor weight, Tensor context, Tensor pooled, Tensor index, "
    "ScalarType? grad_dtype=None) -> (Tensor grad_p_high, Tensor grad_weight, Tensor grad_bias)"
)


def context_fakes(p_high: Tensor, low_channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fakes of ``context``, ``pooled`` and ``index`` as ``pooled_context`` returns them."""
    n, c = p_high.shape[:2]
    return (
        p_high.new_empty((n, low_channels), dtype=accumulate_dtype(p_high.dtype)),
        p_high.new_empty((n, c)),
        p_high.new_empty((n, c), dtype=torch.int32),
    )


def no_context(p_high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What stands for ``context``, ``pooled`` and ``index`` where there is no projection."""
    acc = accumulate_dtype(p_high.dtype)
    empty = (p_high.new_empty(0, dtype=dtype) for dtype in (acc, p_high.dtype, torch.int32))
    return tuple(empty)


def _fake(p_low: Tensor, p_high: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return (empty_map(p_low), *context_fakes(p_high, p_low.shape[1]))


def _fake_backward(
    grad_out: Tensor,
    p_high: Tensor,
    weight: Tensor,
    context: Tensor,
    pooled: Tensor,
    index: Tensor,
    grad_dtype: torch.dtype | None = None,
) -> tuple[Tensor, ...]:
    dtype = grad_dtype or weight.dtype
    return (
        empty_map(p_high),
        weight.new_empty(weight.shape, dtype=dtype),
        weight.new_empty(weight.shape[:1], dtype=dtype),
    )


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    _, p_high, weight, _ = inputs
    ctx.save_for_backward(p_high, weight, *output[1:])


def register(namespace: str) -> None:
    """Define ``cem`` and ``cem_backward`` in ``namespace``."""
    kernels = getattr(torch.ops, namespace)

    def cem(p_low: Tensor, p_high: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        context, pooled, index = kernels.pooled_context(p_high, weight.flatten(1), bias)
        return kernels.context_add(p_low, context), context, pooled, index

    def cem_backward(
        grad_out: Tensor,
        p_high: Tensor,
        weight: Tensor,
        context: Tensor,
        pooled: Tensor,
        index: Tensor,
        grad_dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, ...]:
        grad_p_high = torch.zeros_like(p_high, memory_format=memory_format(p_high))
        grad_weight, grad_bias = kernels.pooled_context_backward(
            kernels.spatial_sum(grad_out), context, pooled, index, weight.flatten(1), grad_p_high
        )
        grad_weight, grad_bias = cast_all((grad_weight, grad_bias), grad_dtype or weight.dtype)
        return grad_p_high, grad_weight.view(weight.shape), grad_bias

    def gradients(ctx: Any, grad_out: Tensor, grad_dtype: torch.dtype | None) -> tuple[Tensor, ...]:
        return grad_out, *kernels.cem_backward(dense(grad_out), *ctx.saved_tensors, grad_dtype)

    operator.define(namespace, "cem", SCHEMA, cem, _fake, one_dtype=True)
    operator.define(namespace, "cem_backward", BACKWARD_SCHEMA, cem_backward, _fake_backward)
    differentiable(namespace, "cem", Operator(kernels.cem.default, _save, gradients))
    operator.once_differentiable(namespace, "cem_backward")
    operator.autocast(namespace, "cem", torch.get_autocast_dtype)
