"""The operators as functions: arguments checked, backend chosen, kernels called.

Every function has a plain PyTorch twin of the same name in :mod:`efpn_kernels.reference`.
"""

from __future__ import annotations

import numbers

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import backends, checks, reference
from .ops import dc_loss as dc_loss_operator
from .ops.call import call
from .ops.layout import dense

_FORMS = {form.name.lower(): int(form) for form in dc_loss_operator.DCLossForm}

__all__ = ["cem", "dc_loss", "efpn_bs", "fbsm"]


def _wants_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _refuse_tangents(operator: str, *tensors: Tensor | None) -> None:
    """Forward-mode differentiation knows nothing of the operators and would go on with zero."""
    if forward_ad._current_level < 0:
        return
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise RuntimeError(
            f"{operator}: forward-mode differentiation (jvp) is not supported; "
            'run it through efpn_kernels.use_backend("reference")'
        )


def cem(p_low: Tensor, p_high: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Context Enhancement Module, Eq. 1-4: ``p_low + relu(weight . maxpool(p_high) + bias)``.

    Args:
        p_low: ``[N, Cl, H, W]``, floating point.
        p_high: ``[N, Ch, h, w]``, at least one pixel, dtype and device of ``p_low``.
        weight: ``[Cl, Ch, 1, 1]``.
        bias: ``[Cl]``.

    Returns:
        ``[N, Cl, H, W]`` in the memory format of ``p_low``.

    Raises:
        TypeError: for a dtype that does not fit; ValueError: for a shape or device that does not;
        RuntimeError: if an explicitly chosen backend cannot run these tensors.
    """
    checks.maps("p_low", p_low, p_high)
    checks.projection(p_low, p_high, "", weight, bias)
    backend = backends.choose(p_low)
    if backend == "reference":
        return reference.cem(p_low, p_high, weight, bias)
    _refuse_tangents("cem", p_low, p_high, weight, bias)
    return call(
        backends.NAMESPACE[backend],
        "cem",
        _wants_grad(p_low, p_high, weight, bias),
        dense(p_low),
        dense(p_high),
        weight.contiguous(),
        bias.contiguous(),
    )


def _block(
    backend: str,
    p_low: Tensor,
    p_high: Tensor,
    project: tuple[Tensor, Tensor] | tuple[None, None],
    fbsm_parameters: tuple[Tensor, ...],
) -> Tensor:
    keep = _wants_grad(p_low, p_high, *project, *fbsm_parameters)
    parameters = (p if p is None else _dense_parameter(p) for p in (*project, *fbsm_parameters))
    namespace = backends.NAMESPACE[backend]
    return call(namespace, "efpn_bs", keep, dense(p_low), dense(p_high), *parameters, keep)


def _dense_parameter(p: Tensor) -> Tensor:
    return dense(p) if p.dim() == 4 else p.contiguous()


def fbsm(c_low: Tensor, p_high: Tensor, *parameters: Tensor) -> Tensor:
    """Foreground-Background Separation Module, Eq. 5-8.

    Args:
        c_low: ``[N, Cl, H, W]``, floating point.
        p_high: ``[N, Ch, h, w]``, at least one pixel, dtype and device of ``c_low``.
        parameters: the twelve of :func:`efpn_kernels.reference.fbsm`, in its order: weight and bias of
            ``high_conv [D, Ch, 3, 3]``, ``high_gate [G, D, 1, 1]``, ``low_conv [D, Cl, 3, 3]``,
            ``low_gate [G, D, 1, 1]``, ``fuse [G, G, 3, 3]`` and ``refine [Cl, Cl, 3, 3]``,
            with ``G`` 1 or ``Cl``.

    Returns:
        ``[N, Cl, H, W]`` in the memory format of ``c_low``.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`cem`.
    """
    checks.maps("c_low", c_low, p_high)
    checks.fbsm("c_low", c_low, p_high, *parameters)
    backend = backends.choose(c_low)
    if backend == "reference":
        return reference.fbsm(c_low, p_high, *parameters)
    _refuse_tangents("fbsm", c_low, p_high, *parameters)
    return _block(backend, c_low, p_high, (None, None), parameters)


def efpn_bs(
    p_low: Tensor,
    p_high: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
    *fbsm_parameters: Tensor,
) -> Tensor:
    """CEM then FBSM as one fused block, Fig. 3.

    Args:
        p_low: ``[N, Cl, H, W]``, floating point.
        p_high: ``[N, Ch, h, w]``, at least one pixel, dtype and device of ``p_low``.
        project_weight: ``[Cl, Ch, 1, 1]``.
        project_bias: ``[Cl]``.
        fbsm_parameters: as in :func:`fbsm`.

    Returns:
        ``[N, Cl, H, W]`` in the memory format of ``p_low``.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`cem`.
    """
    checks.maps("p_low", p_low, p_high)
    checks.projection(p_low, p_high, "project_", project_weight, project_bias)
    checks.fbsm("p_low", p_low, p_high, *fbsm_parameters)
    backend = backends.choose(p_low)
    if backend == "reference":
        return reference.efpn_bs(p_low, p_high, project_weight, project_bias, *fbsm_parameters)
    _refuse_tangents("efpn_bs", p_low, p_high, project_weight, project_bias, *fbsm_parameters)
    return _block(backend, p_low, p_high, (project_weight, project_bias), fbsm_parameters)


def dc_loss(
    pred: Tensor,
    target: Tensor,
    k: Tensor,
    delta: Tensor,
    weight: Tensor | None = None,
    form: str = "equation",
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
    loss_weight: float | Tensor = 1.0,
) -> Tensor:
    """Dynamic Gradient-Balanced Loss, Eq. 9-10: ``a e^2 + (1 - a) e``, ``a = sigmoid(k (e - delta))``.

    Loss, weights, reduction and every gradient are one pass over the elements.

    Args:
        pred: predictions, any shape, floating point.
        target: the shape and device of ``pred``; of two dtypes the wider one is taken, as PyTorch's losses do.
        k: slope of the gate, one element.
        delta: error at which the gate is one half, one element.
        weight: broadcastable to ``pred``, not differentiable.
        form: ``"equation"`` (Eq. 9-10: L1 for small errors) or ``"text"`` (the gate turned round).
        reduction: ``"none"``, ``"mean"`` (of nothing: zero) or ``"sum"``.
        avg_factor: with ``"mean"``: what to divide the sum by, instead of the number of elements: a
            number or a tensor of one element, on the device of ``pred`` or a scalar on the CPU.
        loss_weight: factor on the result: a number, or a tensor of one element, which may want a gradient.

    Returns:
        A scalar, or with ``"none"`` the shape of ``pred``; dtype of ``pred``, ``target`` and ``weight``.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`cem`.
    """
    checks.loss(pred, target, k, delta, weight, form, reduction, avg_factor, loss_weight)
    if isinstance(loss_weight, Tensor):
        loss = dc_loss(pred, target, k, delta, weight, form, reduction, avg_factor)
        return (loss * loss_weight.reshape(())).to(loss.dtype)
    backend = backends.choose(pred)
    if backend == "reference":
        loss = reference.dc_loss(pred, target, k, delta, weight, form, reduction, avg_factor)
        return loss_weight * loss
    _refuse_tangents("dc_loss", pred, target, k, delta)
    pred, target, weight = _one_loss_dtype(pred, target, weight)
    scale = float(loss_weight)
    divisor = None
    if reduction == "mean":
        divisor = max(pred.numel(), 1) if avg_factor is None else avg_factor
        # A tensor stays on its device, since reading it would wait for the GPU; a compiled graph
        # would be specialised to a number inside of the operator's scale; Python does not divide by 0.
        if isinstance(divisor, numbers.Real) and not torch.compiler.is_compiling() and divisor != 0:
            scale, divisor = scale / divisor, None
    loss = dc_loss_operator.dc_loss(
        backends.NAMESPACE[backend],
        pred,
        target,
        weight if weight is None else weight.expand_as(pred),
        k,
        delta,
        _FORMS[form],
        reduction != "none",
        scale,
        _wants_grad(pred, target, k, delta),
    )
    # The sum of halves is in float32, which it may need before it is divided.
    loss = loss if divisor is None else (loss / divisor).reshape(())
    return loss if loss.dtype == pred.dtype else loss.to(pred.dtype)


def _one_loss_dtype(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Loss arguments in the widest of their dtypes; under autocast in float32, as PyTorch's losses."""
    pred, target, weight = tensors
    dtype = pred.dtype
    if torch.is_autocast_enabled(pred.device.type):
        dtype = torch.promote_types(dtype, torch.float32)
    for x in (target, weight):
        if x is not None and x.dtype != dtype:
            dtype = torch.promote_types(dtype, x.dtype)
    if dtype is pred.dtype is target.dtype and (weight is None or weight.dtype is dtype):
        return tensors
    return tuple(x if x is None else x.to(dtype) for x in tensors)
