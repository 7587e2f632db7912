"""``cem``: pooled context and its broadcast sum, Eq. 1-4."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import autograd, registration
from .kernels import accumulate_dtype
from .layout import empty_map, is_channels_last

SCHEMA = (
    "(Tensor p_low, Tensor p_high, Tensor weight, Tensor bias, bool channels_last=False, bool save=False)"
    " -> (Tensor out, Tensor[] state)"
)
BACKWARD_SCHEMA = (
    "(Tensor grad_out, Tensor p_high, Tensor weight, Tensor bias, Tensor[] state, "
    "ScalarType? grad_dtype=None) -> (Tensor grad_p_high, Tensor grad_weight, Tensor grad_bias)"
)


def fake_context(p_high: Tensor, low_channels: int) -> list[Tensor]:
    """Fakes of ``context``, ``pooled`` and ``index`` as ``pooled_context`` returns them."""
    n, c = p_high.shape[:2]
    return [
        p_high.new_empty((n, low_channels), dtype=accumulate_dtype(p_high.dtype)),
        p_high.new_empty((n, c)),
        p_high.new_empty((n, c), dtype=torch.int32),
    ]


def fake_gradient(parameter: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A fake of a parameter's gradient: the parameter's strides, and its dtype unless one is given."""
    return torch.empty_like(parameter, dtype=dtype or parameter.dtype)


def _fake(
    p_low: Tensor,
    p_high: Tensor,
    weight: Tensor,
    bias: Tensor,
    channels_last: bool = False,
    save: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    state = fake_context(p_high, p_low.shape[1]) if save else []
    return empty_map(p_low, channels_last), state


def _fake_backward(
    grad_out: Tensor,
    p_high: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: list[Tensor],
    grad_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        empty_map(p_high, is_channels_last(p_high)),
        fake_gradient(weight, grad_dtype),
        fake_gradient(bias, grad_dtype),
    )


def register(namespace: str) -> None:
    """Define ``cem`` and ``cem_backward`` in ``namespace``."""
    registration.define(namespace, "cem", SCHEMA, _fake)
    registration.define(namespace, "cem_backward", BACKWARD_SCHEMA, _fake_backward)
    registration.refuse_gradients(namespace, "cem_backward")
    autograd.differentiable(namespace, "cem")
    registration.autocast(namespace, "cem", torch.get_autocast_dtype)
    registration.autocast(namespace, "cem_backward", None)


def _saved(out: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return tensors[1:]


def _gradients(
    namespace: str,
    grad_out: Tensor,
    saved: Sequence[Tensor],
    state: list[Tensor],
    channels_last: bool,
    grad_dtype: torch.dtype | None,
) -> tuple[Tensor, ...]:
    op = getattr(torch.ops, namespace).cem_backward.default
    return grad_out, *autograd.run(op, grad_out, *saved, state, grad_dtype)


autograd.OPERATORS["cem"] = autograd.Operator(_saved, _gradients)
