"""``efpn_bs``: CEM and FBSM as one operator, Fig. 3; FBSM alone where there is no projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import autograd, registration
from .cem import fake_context, fake_gradient
from .kernels import accumulate_dtype
from .layout import empty_map, is_channels_last

PARAMETERS = (
    "project_weight",
    "project_bias",
    "high_conv_weight",
    "high_conv_bias",
    "high_gate_weight",
    "high_gate_bias",
    "low_conv_weight",
    "low_conv_bias",
    "low_gate_weight",
    "low_gate_bias",
    "fuse_weight",
    "fuse_bias",
    "refine_weight",
    "refine_bias",
)
_TYPED = ", ".join(f"Tensor{'?' if n.startswith('project') else ''} {n}" for n in PARAMETERS)

# state: what backward needs beside the tensors and the output, in a form of the backend's own.
SCHEMA = (
    f"(Tensor p_low, Tensor p_high, {_TYPED}, bool channels_last=False, bool save=False, bool reduced=False)"
    " -> (Tensor out, Tensor[] state)"
)
# The gradients of p_low, p_high and of the parameters, without those of a projection that is not there.
BACKWARD_SCHEMA = (
    f"(Tensor grad_out, Tensor out, Tensor p_low, Tensor p_high, {_TYPED}, Tensor[] state, "
    "bool channels_last, ScalarType? grad_dtype=None, bool reduced=False) -> Tensor[]"
)

FakeHidden = Callable[[Tensor, int, int, bool], Tensor]
"""``(p_low, hidden channels, gate channels, channels_last)`` to what a backend saves of the hidden map."""


def hidden_map(p_low: Tensor, hidden: int, gates: int, channels_last: bool) -> Tensor:
    """A fake of the hidden map itself, where a backend saves that."""
    return empty_map(p_low, channels_last, hidden)


FAKE_HIDDEN: dict[tuple[str, str], FakeHidden] = {}
"""By namespace and device type; :func:`hidden_map` for others. The descriptors of backends fill it."""


def _fake_of(namespace: str) -> Callable[..., Any]:
    def fake(p_low: Tensor, p_high: Tensor, *rest: Any) -> tuple[Tensor, list[Tensor]]:
        parameters = rest[: len(PARAMETERS)]
        channels_last, save = (*rest[len(PARAMETERS) :], False, False)[:2]
        out = empty_map(p_low, channels_last)
        if not save:
            return out, []
        p = dict(zip(PARAMETERS, parameters, strict=True))
        n, c, height, width = p_low.shape
        # A map that is contiguous and channels_last at once says nothing of the others.
        inner_last = channels_last and not (c == 1 or height * width == 1)
        acc = accumulate_dtype(p_low.dtype)
        hidden, gates = p["low_conv_weight"].shape[0], p["low_gate_weight"].shape[0]
        fake_hidden = FAKE_HIDDEN.get((namespace, p_low.device.type), hidden_map)
        masks = (
            p_low.new_empty((n, 1, height, width), dtype=acc)
            if gates == 1
            else empty_map(p_low, inner_last, gates)
            for _ in range(3)
        )
        return out, [
            *([] if p["project_weight"] is None else fake_context(p_high, c)),
            *masks,
            p_low.new_empty((n, 3, 3, hidden), dtype=acc),
            fake_hidden(p_low, hidden, gates, inner_last),
        ]

    return fake


def _fake_backward(
    grad_out: Tensor, out: Tensor, p_low: Tensor, p_high: Tensor, *rest: Any
) -> list[Tensor]:
    parameters = rest[: len(PARAMETERS)]
    _, channels_last, grad_dtype = (*rest[len(PARAMETERS) :], None)[:3]
    return [
        empty_map(p_low, channels_last),
        empty_map(p_high, is_channels_last(p_high)),
        *(fake_gradient(p, grad_dtype) for p in parameters if p is not None),
    ]


def register(namespace: str) -> None:
    """Define ``efpn_bs`` and ``efpn_bs_backward`` in ``namespace``."""
    registration.define(namespace, "efpn_bs", SCHEMA, _fake_of(namespace))
    registration.define(namespace, "efpn_bs_backward", BACKWARD_SCHEMA, _fake_backward)
    registration.refuse_gradients(namespace, "efpn_bs_backward")
    autograd.differentiable(namespace, "efpn_bs")
    registration.autocast(namespace, "efpn_bs", torch.get_autocast_dtype)
    registration.autocast(namespace, "efpn_bs_backward", None)


def _saved(out: Tensor, tensors: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    return (out, *tensors)


def _gradients(
    namespace: str,
    grad_out: Tensor,
    saved: Sequence[Tensor | None],
    state: list[Tensor],
    channels_last: bool,
    grad_dtype: torch.dtype | None,
    reduced: bool,
) -> list[Tensor | None]:
    op = getattr(torch.ops, namespace).efpn_bs_backward.default
    grads = autograd.run(op, grad_out, *saved, state, channels_last, grad_dtype, reduced)
    without_projection = (None, None) if saved[3] is None else ()
    return [*grads[:2], *without_projection, *grads[2:]]


autograd.OPERATORS["efpn_bs"] = autograd.Operator(_saved, _gradients, reducible=True)
