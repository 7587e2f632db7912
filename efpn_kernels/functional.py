"""The operators as functions: arguments checked, backend chosen, kernels called.

Every function has a plain PyTorch twin of the same name and arguments in :mod:`efpn_kernels.reference`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import backends, checks, precision, reference
from .ops import autograd
from .ops import dc_loss as dc_loss_operator

_FORMS = {form.name.lower(): int(form) for form in dc_loss_operator.DCLossForm}

__all__ = ["cem", "dc_loss", "efpn_bs", "fbsm"]


def _run(
    public_name: str,
    operator: str,
    tensors: tuple[Tensor | None, ...],
    check: Callable[[], None],
    plain: Callable[[], Tensor],
) -> Tensor:
    """Call ``operator`` on the backend that is chosen for it, or ``plain`` for PyTorch.

    The compiled operators check their arguments themselves. ``check`` finds better words, so it is asked
    where they refuse; where nothing of that kind stands behind a call, it is asked first.
    """
    if torch.compiler.is_compiling():
        check()
    try:
        backend = backends.select(public_name, tensors[0])
        if backend != "reference":
            namespace = backends.DESCRIPTORS[backend].namespace
            reduced = precision.current_float32_precision() != "highest"
            return autograd.call(namespace, operator, *tensors, reduced=reduced)
    except Exception:
        check()
        maps = {"c_low" if public_name == "fbsm" else "p_low": tensors[0], "p_high": tensors[1]}
        checks.keepable(maps, tensors)
        raise
    check()
    return plain()


def cem(p_low: Tensor, p_high: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Context Enhancement Module, Eq. 1-4: ``p_low + relu(weight . maxpool(p_high) + bias)``.

    Args:
        p_low: ``[N, Cl, H, W]``, floating point.
        p_high: ``[N, Ch, h, w]``, at least one pixel, dtype and device of ``p_low``.
        weight: ``[Cl, Ch, 1, 1]``.
        bias: ``[Cl]``.

    Returns:
        ``[N, Cl, H, W]``, channels_last where ``p_low`` is dense in that format, else contiguous.

    Raises:
        TypeError: for a dtype that does not fit.
        ValueError: for a shape or device that does not fit.
        RuntimeError: if an explicitly chosen backend cannot run these tensors, and for transforms that
            the operators do not know (``torch.func``, forward-mode differentiation, ``torch.jit.trace``).
    """
    tensors = (p_low, p_high, weight, bias)
    return _run(
        "cem", "cem", tensors, lambda: checks.cem(*tensors), lambda: reference.cem(*tensors)
    )


def fbsm(
    c_low: Tensor,
    p_high: Tensor,
    high_conv_weight: Tensor,
    high_conv_bias: Tensor,
    high_gate_weight: Tensor,
    high_gate_bias: Tensor,
    low_conv_weight: Tensor,
    low_conv_bias: Tensor,
    low_gate_weight: Tensor,
    low_gate_bias: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor,
    refine_weight: Tensor,
    refine_bias: Tensor,
) -> Tensor:
    """Foreground-Background Separation Module, Eq. 5-8.

    Args:
        c_low: ``[N, Cl, H, W]``, floating point.
        p_high: ``[N, Ch, h, w]``, at least one pixel, dtype and device of ``c_low``.
        high_conv_weight: ``[D, Ch, 3, 3]``; high_conv_bias: ``[D]``.
        high_gate_weight: ``[G, D, 1, 1]`` with ``G`` 1 or ``Cl``; high_gate_bias: ``[G]``.
        low_conv_weight: ``[D, Cl, 3, 3]``; low_conv_bias: ``[D]``.
        low_gate_weight: ``[G, D, 1, 1]``; low_gate_bias: ``[G]``.
        fuse_weight: ``[G, G, 3, 3]``; fuse_bias: ``[G]``.
        refine_weight: ``[Cl, Cl, 3, 3]``; refine_bias: ``[Cl]``.

    Returns:
        ``[N, Cl, H, W]``, channels_last where ``c_low`` is dense in that format, else contiguous.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`cem`.
    """
    tensors = (
        c_low,
        p_high,
        None,
        None,
        high_conv_weight,
        high_conv_bias,
        high_gate_weight,
        high_gate_bias,
        low_conv_weight,
        low_conv_bias,
        low_gate_weight,
        low_gate_bias,
        fuse_weight,
        fuse_bias,
        refine_weight,
        refine_bias,
    )
    return _run(
        "fbsm",
        "efpn_bs",
        tensors,
        lambda: checks.block(*tensors, low_name="c_low"),
        lambda: reference.fbsm(*tensors[:2], *tensors[4:]),
    )


def efpn_bs(
    p_low: Tensor,
    p_high: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
    high_conv_weight: Tensor,
    high_conv_bias: Tensor,
    high_gate_weight: Tensor,
    high_gate_bias: Tensor,
    low_conv_weight: Tensor,
    low_conv_bias: Tensor,
    low_gate_weight: Tensor,
    low_gate_bias: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor,
    refine_weight: Tensor,
    refine_bias: Tensor,
) -> Tensor:
    """CEM then FBSM as one fused block, Fig. 3.

    Args:
        p_low: ``[N, Cl, H, W]``, floating point.
        p_high: ``[N, Ch, h, w]``, at least one pixel, dtype and device of ``p_low``.
        project_weight: ``[Cl, Ch, 1, 1]``; project_bias: ``[Cl]``.
        high_conv_weight: and all that follow: as in :func:`fbsm`.

    Returns:
        ``[N, Cl, H, W]``, channels_last where ``p_low`` is dense in that format, else contiguous.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`cem`.
    """
    tensors = (
        p_low,
        p_high,
        project_weight,
        project_bias,
        high_conv_weight,
        high_conv_bias,
        high_gate_weight,
        high_gate_bias,
        low_conv_weight,
        low_conv_bias,
        low_gate_weight,
        low_gate_bias,
        fuse_weight,
        fuse_bias,
        refine_weight,
        refine_bias,
    )
    if project_weight is None:  # which the operator takes for FBSM alone
        checks.tensor("project_weight", None)
    return _run(
        "efpn_bs",
        "efpn_bs",
        tensors,
        lambda: checks.block(*tensors),
        lambda: reference.efpn_bs(*tensors),
    )


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
        form: ``"equation"`` (Eq. 9-10: L1 for small errors) or ``"text"`` (gate direction reversed).
        reduction: ``"none"``, ``"mean"`` (of nothing: zero) or ``"sum"``.
        avg_factor: with ``"mean"``: what to divide the sum by, instead of the number of elements: a
            number or a tensor of one element, on the device of ``pred`` or a scalar on the CPU.
        loss_weight: factor on the result: a number, or a tensor of one element, which may want a gradient.

    Returns:
        A scalar, or with ``"none"`` the shape of ``pred``; dtype of ``pred``, ``target`` and ``weight``.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`cem`.
    """

    def check() -> None:
        checks.loss(pred, target, k, delta, weight, form)

    # What no operator sees; the rest it checks itself, and `check` finds better words.
    checks.loss_options(pred, weight, reduction, avg_factor, loss_weight)
    if torch.compiler.is_compiling():
        check()
    try:
        if isinstance(loss_weight, Tensor):
            loss = dc_loss(pred, target, k, delta, weight, form, reduction, avg_factor)
            return (loss * loss_weight.reshape(())).to(loss.dtype)
        backend = backends.select("dc_loss", pred)
        if backend != "reference":
            namespace = backends.DESCRIPTORS[backend].namespace
            return _fused_loss(
                namespace, pred, target, k, delta, weight, form, reduction, avg_factor, loss_weight
            )
    except Exception:
        check()
        raise
    check()
    loss = reference.dc_loss(pred, target, k, delta, weight, form, reduction, avg_factor)
    return loss_weight * loss


def _fused_loss(
    namespace: str,
    pred: Tensor,
    target: Tensor,
    k: Tensor,
    delta: Tensor,
    weight: Tensor | None,
    form: str,
    reduction: str,
    avg_factor: float | Tensor | None,
    loss_weight: float,
) -> Tensor:
    pred, target, weight = _one_loss_dtype(pred, target, weight)
    scale = float(loss_weight)
    divisor = None
    if reduction == "mean":
        divisor = max(pred.numel(), 1) if avg_factor is None else avg_factor
        # A tensor stays on its device, since reading it would wait for the GPU; a compiled graph
        # would be specialised to a number inside of the operator's scale; Python does not divide by 0.
        if not (isinstance(divisor, Tensor) or torch.compiler.is_compiling() or divisor == 0):
            scale, divisor = scale / divisor, None
    loss = dc_loss_operator.dc_loss(
        namespace,
        pred,
        target,
        weight if weight is None else weight.expand_as(pred),
        k,
        delta,
        _FORMS[form],
        reduction != "none",
        scale,
        autograd.wants_grad((pred, target, k, delta)),
    )
    # The sum of halves is in float32, which it may need before it is divided.
    loss = loss if divisor is None else (loss / divisor).reshape(())
    return loss if loss.dtype == pred.dtype else loss.to(pred.dtype)


def _one_loss_dtype(
    pred: Tensor, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Loss arguments in the widest of their dtypes; under autocast in float32, as PyTorch's losses."""
    dtype = pred.dtype
    autocast = torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(pred.device.type)
    if not autocast and target.dtype is dtype and (weight is None or weight.dtype is dtype):
        return pred, target, weight
    if autocast:
        dtype = torch.promote_types(dtype, torch.float32)
    for name, x in (("target", target), ("weight", weight)):
        if x is not None:
            checks.tensor(name, x)
            dtype = torch.promote_types(dtype, x.dtype)
    return pred.to(dtype), target.to(dtype), weight if weight is None else weight.to(dtype)
