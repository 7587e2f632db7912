"""``efpn_bs``: CEM and FBSM as one operator, Fig. 3; FBSM alone where there is no projection.

Forward, for a mask of one channel::

    context  = relu(W_p maxpool(p_high) + b_p)                      one small kernel
    m_high   = gate of the upsampled taps of p_high                 one GEMM, one kernel
    m_low    = gate of conv3x3(p_low) + border(context)             one convolution, one pass
    x, mask  = (p_low + context) * sigmoid(fuse(m_high + m_low))    one pass
    out      = relu(conv3x3(x))                                     one convolution

What is kept for backward besides inputs and output: the gates, the context and the border's constants, and
of the hidden map what the backend's low gate needs (on a CPU in float32 one bit an element).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import convolution, high_gate, low_gate, operator, refine
from .call import Operator, cast_all, differentiable
from .cem import context_fakes, no_context
from .kernels import accumulate_dtype
from .layout import as_format, empty_map, memory_format

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
STATE = ("context", "pooled", "index", "m_high", "m_low", "mask", "border", "kept")


def _typed(names: tuple[str, ...]) -> str:
    return ", ".join(f"Tensor{'?' if n.startswith('project') else ''} {n}" for n in names)


SCHEMA = (
    f"(Tensor p_low, Tensor p_high, {_typed(PARAMETERS)}, bool keep)"
    f" -> (Tensor out, {_typed(STATE)})"
)
BACKWARD_SCHEMA = (
    f"(Tensor grad_out, Tensor out, Tensor p_low, Tensor p_high, {_typed(PARAMETERS)}, "
    f"{_typed(STATE)}, ScalarType? grad_dtype=None) -> (Tensor grad_p_low, Tensor grad_p_high, "
    + ", ".join(f"Tensor grad_{n}" for n in PARAMETERS)
    + ")"
)


def _fake_of(namespace: str) -> Any:
    def fake(p_low: Tensor, p_high: Tensor, *parameters_and_keep: Any) -> tuple[Tensor, ...]:
        *parameters, keep = parameters_and_keep
        p = dict(zip(PARAMETERS, parameters, strict=True))
        n, c, height, width = p_low.shape
        acc = accumulate_dtype(p_low.dtype)
        hidden, gates = p["low_conv_weight"].shape[0], p["low_gate_weight"].shape[0]
        state = no_context(p_high) if p["project_weight"] is None else context_fakes(p_high, c)
        masks = (
            p_low.new_empty((n, 1, height, width), dtype=acc)
            if gates == 1
            else empty_map(p_low, gates)
            for _ in range(3)
        )
        if not keep:
            kept = p_low.new_empty(0, dtype=_kept_dtype(namespace, p_low, gates))
        elif gates == 1 and convolution.fused(namespace, "low_gate_conv", p_low):
            kept = p_low.new_empty(
                n * height * width * ((hidden + 15) // 16) * 4, dtype=torch.uint8
            )
        else:
            kept = empty_map(p_low, hidden)
        border = p_low.new_empty((n, 3, 3, hidden), dtype=acc)
        return (empty_map(p_low), *state, *masks, border, kept)

    return fake


def _kept_dtype(namespace: str, p_low: Tensor, gates: int) -> torch.dtype:
    fused = gates == 1 and convolution.fused(namespace, "low_gate_conv", p_low)
    return torch.uint8 if fused else p_low.dtype


def _fake_backward(
    grad_out: Tensor, out: Tensor, p_low: Tensor, p_high: Tensor, *rest: Tensor | None
) -> tuple[Tensor, ...]:
    parameters = rest[: len(PARAMETERS)]
    grad_dtype = rest[len(PARAMETERS + STATE) :]
    return (
        empty_map(p_low),
        empty_map(p_high),
        *(
            p_low.new_empty(0)
            if p is None
            else torch.empty(
                p.shape,
                dtype=_grad_dtype(p, *grad_dtype),
                device=p.device,
                memory_format=memory_format(p),
            )
            for p in parameters
        ),
    )


def _grad_dtype(parameter: Tensor, grad_dtype: torch.dtype | None = None) -> torch.dtype:
    return grad_dtype or parameter.dtype


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, keep = inputs
    out, *state = output
    ctx.keep = keep
    if keep:
        ctx.save_for_backward(out, *tensors, *state)


def register(namespace: str) -> None:
    """Define ``efpn_bs`` and ``efpn_bs_backward`` in ``namespace``."""
    kernels = getattr(torch.ops, namespace)

    def efpn_bs(p_low: Tensor, p_high: Tensor, *parameters_and_keep: Any) -> tuple[Tensor, ...]:
        *parameters, keep = parameters_and_keep
        p = dict(zip(PARAMETERS, parameters, strict=True))
        if p["project_weight"] is None:
            context, state = None, no_context(p_high)
        else:
            state = kernels.pooled_context(
                p_high, p["project_weight"].flatten(1), p["project_bias"]
            )
            context = state[0]
        m_high = high_gate.forward(
            kernels,
            p_high,
            p["high_conv_weight"],
            p["high_conv_bias"],
            p["high_gate_weight"],
            p["high_gate_bias"],
            p_low.shape[2:],
            memory_format(p_low) == torch.channels_last,
        )
        m_low, border, kept = low_gate.forward(
            namespace,
            p_low,
            context,
            p["low_conv_weight"],
            p["low_conv_bias"],
            p["low_gate_weight"],
            p["low_gate_bias"],
            keep,
        )
        out, mask = refine.forward(
            namespace,
            p_low,
            context,
            m_high,
            m_low,
            p["fuse_weight"],
            p["fuse_bias"],
            p["refine_weight"],
            p["refine_bias"],
        )
        return out, *state, m_high, m_low, mask, border, kept

    def efpn_bs_backward(
        grad_out: Tensor, out: Tensor, p_low: Tensor, p_high: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        tensors, grad_dtype = rest[: len(PARAMETERS + STATE)], rest[len(PARAMETERS + STATE) :]
        p = dict(zip(PARAMETERS + STATE, tensors, strict=True))
        context = None if p["project_weight"] is None else p["context"]
        mask, m_high, m_low = p["mask"], p["m_high"], p["m_low"]
        grad_out = as_format(grad_out, out)
        grad_x, grad_refine_weight, grad_refine_bias = refine.refine_backward(
            namespace, grad_out, out, p_low, context, mask, p["refine_weight"]
        )
        grad_logit, grad_context = kernels.mask_apply_backward(grad_x, p_low, context, mask)
        grad_gate, grad_fuse_weight, grad_fuse_bias = refine.fuse_backward(
            kernels, grad_logit, m_high, m_low, p["fuse_weight"]
        )
        (
            grad_p_low,
            grad_context_of_gate,
            grad_low_conv_weight,
            grad_low_conv_bias,
            grad_low_gate_weight,
            grad_low_gate_bias,
        ) = low_gate.backward(
            namespace,
            grad_gate,
            m_low,
            p["border"],
            p["kept"],
            p_low,
            context,
            p["low_conv_weight"],
            p["low_gate_weight"],
        )
        kernels.mask_merge_(grad_p_low, grad_x, mask)
        grad_p_high, *grads_of_high_gate = high_gate.backward(
            kernels,
            grad_gate,
            m_high,
            p_high,
            p["high_conv_weight"],
            p["high_conv_bias"],
            p["high_gate_weight"],
            memory_format(p_low) == torch.channels_last,
        )
        if context is None:
            grads_of_project = [p_low.new_empty(0), p_low.new_empty(0)]
        else:
            grads_of_project = kernels.pooled_context_backward(
                grad_context.add_(grad_context_of_gate),
                context,
                p["pooled"],
                p["index"],
                p["project_weight"].flatten(1),
                grad_p_high,
            )
        grads = (
            *grads_of_project,
            *grads_of_high_gate,
            grad_low_conv_weight,
            grad_low_conv_bias,
            grad_low_gate_weight,
            grad_low_gate_bias,
            grad_fuse_weight,
            grad_fuse_bias,
            grad_refine_weight,
            grad_refine_bias,
        )
        parameters = [p[name] for name in PARAMETERS]
        return grad_p_low, grad_p_high, *_as_parameters(grads, parameters, *grad_dtype)

    def gradients(
        ctx: Any, grad_out: Tensor, grad_dtype: torch.dtype | None
    ) -> tuple[Tensor | None, ...]:
        if not ctx.keep:
            raise RuntimeError(
                f"{namespace}::efpn_bs: keep: expected True for an output to differentiate, got False"
            )
        return *kernels.efpn_bs_backward(grad_out, *ctx.saved_tensors, grad_dtype), None

    operator.define(namespace, "efpn_bs", SCHEMA, efpn_bs, _fake_of(namespace), one_dtype=True)
    operator.define(
        namespace, "efpn_bs_backward", BACKWARD_SCHEMA, efpn_bs_backward, _fake_backward
    )
    differentiable(namespace, "efpn_bs", Operator(kernels.efpn_bs.default, _save, gradients))
    operator.once_differentiable(namespace, "efpn_bs_backward")
    operator.autocast(namespace, "efpn_bs", torch.get_autocast_dtype)


def _as_parameters(
    grads: tuple[Tensor, ...],
    parameters: list[Tensor | None],
    grad_dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Gradients in the parameters' shapes and formats, in ``grad_dtype`` or the parameters' own."""
    out = list(grads)
    used = [i for i, parameter in enumerate(parameters) if parameter is not None]
    dtype = _grad_dtype(parameters[used[0]], grad_dtype)
    for i in used:
        grad, like = grads[i], parameters[i]
        if grad.shape != like.shape:
            grad = grad.reshape(like.shape)
        form = memory_format(like)
        if not grad.is_contiguous(memory_format=form):  # format and dtype in one copy
            out[i] = torch.empty(grad.shape, dtype=dtype, device=grad.device, memory_format=form)
            out[i].copy_(grad)
        else:
            out[i] = grad
    for i, grad in zip(used, cast_all((out[i] for i in used), dtype), strict=True):
        out[i] = grad
    return out
