"""The block, CEM then FBSM, Fig. 3, from the kernels of a target: see ``csrc/common/efpn_bs.h``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import checks
from ..ops.efpn_bs import PARAMETERS
from ..ops.layout import dense, in_format, is_channels_last
from . import high_gate, low_gate, refine
from .parameter_gradients import like_parameters
from .target import Target, checked


def _dense_parameters(parameters: tuple[Tensor | None, ...]) -> dict[str, Tensor | None]:
    return {
        name: p if p is None else dense(p) if p.dim() == 4 else p.contiguous()
        for name, p in zip(PARAMETERS, parameters, strict=True)
    }


def forward(
    target: Target, p_low: Tensor, p_high: Tensor, *parameters_and_flags: Any
) -> tuple[Tensor, list[Tensor]]:
    """``(out, state)``: of the projection context, pooled, index; then m_high, m_low, mask, border, hidden."""
    parameters = parameters_and_flags[: len(PARAMETERS)]
    channels_last, save = (*parameters_and_flags[len(PARAMETERS) :], False, False)[:2]
    checked("efpn_bs", checks.block, p_low, p_high, *parameters)
    p = _dense_parameters(parameters)
    p_low, p_high = in_format(p_low, channels_last), dense(p_high)
    channels_last = is_channels_last(p_low)
    state: list[Tensor] = []
    if p["project_weight"] is not None:
        weight = p["project_weight"].flatten(1)
        state += target.kernels.pooled_context(p_high, weight, p["project_bias"])
    context = state[0] if state else None
    m_high = high_gate.forward(
        target,
        p_high,
        p["high_conv_weight"],
        p["high_conv_bias"],
        p["high_gate_weight"],
        p["high_gate_bias"],
        p_low.shape[2:],
        channels_last,
    )
    m_low, border, hidden = low_gate.forward(
        target,
        p_low,
        context,
        p["low_conv_weight"],
        p["low_conv_bias"],
        p["low_gate_weight"],
        p["low_gate_bias"],
        channels_last,
        save,
    )
    out, mask = refine.forward(
        target,
        p_low,
        context,
        m_high,
        m_low,
        p["fuse_weight"],
        p["fuse_bias"],
        p["refine_weight"],
        p["refine_bias"],
        channels_last,
    )
    return out, [*state, m_high, m_low, mask, border, hidden] if save else []


def backward(
    target: Target, grad_out: Tensor, out: Tensor, p_low: Tensor, p_high: Tensor, *rest: Any
) -> list[Tensor]:
    """Gradients of the maps and of the parameters that there are."""
    kernels = target.kernels
    parameters = rest[: len(PARAMETERS)]
    state, channels_last, grad_dtype = (*rest[len(PARAMETERS) :], None)[:3]
    p = _dense_parameters(parameters)
    p_low, p_high = in_format(p_low, channels_last), dense(p_high)
    channels_last = is_channels_last(p_low)
    *of_projection, m_high, m_low, mask, border, hidden = state
    context = of_projection[0] if of_projection else None

    grad_x, grad_refine_weight, grad_refine_bias = refine.gradients(
        target,
        in_format(grad_out, channels_last),
        in_format(out, channels_last),
        p_low,
        context,
        mask,
        p["refine_weight"],
        channels_last,
    )
    grad_logit, grad_context = kernels.mask_apply_backward(grad_x, p_low, context, mask)
    grad_gate, grad_fuse_weight, grad_fuse_bias = refine.fuse_gradients(
        target, grad_logit, m_high, m_low, p["fuse_weight"], channels_last
    )
    grad_p_low, grad_context_of_gate, *grads_of_low_gate = low_gate.gradients(
        target,
        grad_gate,
        m_low,
        border,
        hidden,
        p_low,
        context,
        p["low_conv_weight"],
        p["low_gate_weight"],
        channels_last,
    )
    kernels.mask_merge_(grad_p_low, grad_x, mask)
    grad_p_high, *grads_of_high_gate = high_gate.gradients(
        target,
        grad_gate,
        m_high,
        p_high,
        p["high_conv_weight"],
        p["high_conv_bias"],
        p["high_gate_weight"],
        channels_last,
    )
    grads: list[Tensor] = []
    if context is not None:
        grads += kernels.pooled_context_backward(
            grad_context + grad_context_of_gate,
            *of_projection,
            p["project_weight"].flatten(1),
            grad_p_high,
        )
    grads += [*grads_of_high_gate, *grads_of_low_gate, grad_fuse_weight, grad_fuse_bias]
    grads += [grad_refine_weight, grad_refine_bias]
    present = [parameter for parameter in parameters if parameter is not None]
    return [grad_p_low, grad_p_high, *like_parameters(grads, present, grad_dtype)]
