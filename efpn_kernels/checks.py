"""Checks of public arguments: what was required and what came, before any kernel runs."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable

import torch
from torch import Tensor

from .reference.dc_loss import FORMS, REDUCTIONS


def tensor(name: str, x: object) -> None:
    """``x`` is a floating-point tensor."""
    if not isinstance(x, Tensor):
        way_out = ""
        if type(x).__module__.startswith("torch.fx"):
            way_out = '; torch.fx traces the modules under efpn_kernels.use_backend("reference")'
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}{way_out}")
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got dtype {x.dtype}")
    if x.is_nested or x.layout != torch.strided:
        got = "a nested tensor; pad and stack it" if x.is_nested else f"{x.layout}; call to_dense()"
        raise TypeError(f"{name}: expected a dense tensor, got {got}")


def _cast_alike(x: Tensor, like: Tensor) -> bool:
    """Whether autocast brings both to one dtype: it does with every one but float64."""
    if torch.float64 in (x.dtype, like.dtype):
        return False
    try:
        return torch.is_autocast_enabled(like.device.type)
    except RuntimeError:  # a device that has no autocast
        return False


def same_kind(
    name: str,
    x: Tensor,
    like_name: str,
    like: Tensor,
    with_dtype: bool = True,
    autocast: bool = True,
) -> None:
    """``x`` has the device of ``like``, and its dtype or, with ``autocast``, one that it makes the same."""
    if x.device != like.device:
        raise ValueError(
            f"{name}: expected the device of {like_name} ({like.device}), got {x.device}"
        )
    if with_dtype and x.dtype != like.dtype and not (autocast and _cast_alike(x, like)):
        raise TypeError(f"{name}: expected the dtype of {like_name} ({like.dtype}), got {x.dtype}")


def _shape(name: str, x: Tensor, expected: tuple[int, ...]) -> None:
    if x.shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(x.shape)}")


def maps(low_name: str, low: Tensor, high: Tensor, autocast: bool = True) -> None:
    """A low-level map ``[N, Cl, H, W]`` and a high-level one ``[N, Ch, h, w]`` of the same images."""
    for name, x, dims in ((low_name, low, "[N, C, H, W]"), ("p_high", high, "[N, C, h, w]")):
        tensor(name, x)
        if x.dim() != 4:
            raise ValueError(f"{name}: expected 4 dimensions {dims}, got shape {tuple(x.shape)}")
    same_kind("p_high", high, low_name, low, autocast=autocast)
    if low.shape[0] != high.shape[0]:
        raise ValueError(
            f"p_high: expected the batch size of {low_name} ({low.shape[0]}), got {high.shape[0]}"
        )
    if high.shape[2] == 0 or high.shape[3] == 0:
        raise ValueError(
            "p_high: expected a height and width of at least 1 to take a maximum and to upsample, "
            f"got shape {tuple(high.shape)}"
        )


def _map_channels(name: str, x: Tensor, parameter_name: str, expected: int) -> None:
    if x.shape[1] != expected:
        raise ValueError(
            f"{name}: expected {expected} channels (those of {parameter_name}), "
            f"got shape {tuple(x.shape)}"
        )


def _parameters(
    low_name: str,
    low: Tensor,
    expected: dict[str, tuple[Tensor, tuple[int, ...]]],
    autocast: bool,
) -> None:
    for name, (parameter, shape) in expected.items():
        tensor(name, parameter)
        _shape(name, parameter, shape)
        same_kind(name, parameter, low_name, low, autocast=autocast)


def _projection(
    prefix: str, low: Tensor, high: Tensor, weight: Tensor, bias: Tensor, autocast: bool
) -> None:
    tensor(f"{prefix}weight", weight)
    tensor(f"{prefix}bias", bias)
    if weight.dim() == 4 and weight.shape[2:] == (1, 1) and bias.shape == weight.shape[:1]:
        # A sound module: then it is a map that does not fit.
        _map_channels("p_low", low, f"{prefix}weight", weight.shape[0])
        _map_channels("p_high", high, f"{prefix}weight", weight.shape[1])
    c, c_high = low.shape[1], high.shape[1]
    expected = {f"{prefix}weight": (weight, (c, c_high, 1, 1)), f"{prefix}bias": (bias, (c,))}
    _parameters("p_low", low, expected, autocast)


def cem(p_low: Tensor, p_high: Tensor, weight: Tensor, bias: Tensor, autocast: bool = True) -> None:
    """The arguments of ``cem``; with ``autocast``, dtypes may differ where it makes them one."""
    maps("p_low", p_low, p_high, autocast)
    _projection("", p_low, p_high, weight, bias, autocast)


def block(
    low: Tensor,
    high: Tensor,
    project_weight: Tensor | None,
    project_bias: Tensor | None,
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
    low_name: str = "p_low",
    autocast: bool = True,
) -> None:
    """The arguments of ``efpn_bs``, or of ``fbsm`` where there is no projection.

    Hidden and gate channels are those of ``low_gate_weight``.
    """
    maps(low_name, low, high, autocast)
    if project_weight is not None or project_bias is not None:
        _projection("project_", low, high, project_weight, project_bias, autocast)
    if low.shape[2] == 0 or low.shape[3] == 0:
        raise ValueError(
            f"{low_name}: expected a height and width of at least 1 to convolve, "
            f"got shape {tuple(low.shape)}"
        )
    tensor("low_gate_weight", low_gate_weight)
    tensor("high_conv_weight", high_conv_weight)
    tensor("low_conv_weight", low_conv_weight)
    if low_conv_weight.dim() == 4 and high_conv_weight.dim() == 4:
        hidden, channels = low_conv_weight.shape[:2]
        if isinstance(refine_weight, Tensor) and refine_weight.shape == (channels, channels, 3, 3):
            _map_channels(low_name, low, "low_conv_weight", channels)
        if high_conv_weight.shape[0] == hidden:
            _map_channels("p_high", high, "high_conv_weight", high_conv_weight.shape[1])
    c, c_high = low.shape[1], high.shape[1]
    gates = low_gate_weight.shape[0] if low_gate_weight.dim() == 4 else 0
    if gates != 1 and gates != c:  # not `in`: a compiler cannot look a symbolic size up in a tuple
        raise ValueError(
            f"low_gate_weight: expected shape [G, D, 1, 1] with G = 1 or the channels of {low_name} "
            f"({c}), got {tuple(low_gate_weight.shape)}"
        )
    g, d = low_gate_weight.shape[:2]
    expected = {
        "high_conv_weight": (high_conv_weight, (d, c_high, 3, 3)),
        "high_conv_bias": (high_conv_bias, (d,)),
        "high_gate_weight": (high_gate_weight, (g, d, 1, 1)),
        "high_gate_bias": (high_gate_bias, (g,)),
        "low_conv_weight": (low_conv_weight, (d, c, 3, 3)),
        "low_conv_bias": (low_conv_bias, (d,)),
        "low_gate_weight": (low_gate_weight, (g, d, 1, 1)),
        "low_gate_bias": (low_gate_bias, (g,)),
        "fuse_weight": (fuse_weight, (g, g, 3, 3)),
        "fuse_bias": (fuse_bias, (g,)),
        "refine_weight": (refine_weight, (c, c, 3, 3)),
        "refine_bias": (refine_bias, (c,)),
    }
    _parameters(low_name, low, expected, autocast)


def scalar_parameter(name: str, x: object, like: Tensor) -> None:
    """``k`` or ``delta``: a floating-point tensor of one element on the device of ``like``."""
    tensor(name, x)
    if x.numel() != 1:
        raise ValueError(f"{name}: expected one element, got shape {tuple(x.shape)}")
    if x.device != like.device:
        raise ValueError(f"{name}: expected the device of pred ({like.device}), got {x.device}")


def _number(value: object) -> bool:
    return isinstance(value, (int, float, numbers.Real))


def loss_options(
    pred: object, weight: object, reduction: str, avg_factor: object, loss_weight: object
) -> None:
    """The arguments of ``dc_loss`` that its operator does not have, and a weight without gradient."""
    choice("reduction", reduction, REDUCTIONS)
    real("loss_weight", loss_weight)
    if weight is not None:
        tensor("weight", weight)
        if weight.requires_grad:
            raise ValueError(
                "weight: expected requires_grad=False, it is not differentiable; got True"
            )
    if avg_factor is None:
        return
    if not isinstance(avg_factor, Tensor):
        # Symbolic ones come with torch.export.
        if not (_number(avg_factor) or isinstance(avg_factor, (torch.SymInt, torch.SymFloat))):
            raise TypeError(
                "avg_factor: expected a number or a tensor of one element, "
                f"got {type(avg_factor).__name__}"
            )
    elif avg_factor.numel() != 1:
        raise ValueError(f"avg_factor: expected one element, got shape {tuple(avg_factor.shape)}")
    elif avg_factor.is_complex():
        raise TypeError(f"avg_factor: expected a real number, got dtype {avg_factor.dtype}")
    elif isinstance(pred, Tensor) and not (
        avg_factor.device == pred.device or (avg_factor.is_cpu and avg_factor.dim() == 0)
    ):
        raise ValueError(
            f"avg_factor: expected the device of pred ({pred.device}), or a tensor of no dimension "
            f"on the CPU, got {avg_factor.device}"
        )
    if reduction != "mean":
        raise ValueError(f"avg_factor: expected reduction 'mean', got reduction {reduction!r}")


def loss(
    pred: Tensor,
    target: Tensor,
    k: Tensor,
    delta: Tensor,
    weight: Tensor | None,
    form: str,
) -> None:
    """The other arguments of ``dc_loss``."""
    tensor("pred", pred)
    tensor("target", target)
    _shape("target", target, tuple(pred.shape))
    same_kind("target", target, "pred", pred, with_dtype=False)
    scalar_parameter("k", k, pred)
    scalar_parameter("delta", delta, pred)
    if weight is not None:
        same_kind("weight", weight, "pred", pred, with_dtype=False)
        _broadcastable(weight, pred)
    choice("form", form, FORMS)
    elements = {"pred": pred, "target": target, "weight": weight}
    keepable(elements, (pred, target, k, delta))


def keepable(tensors: dict[str, Tensor | None], differentiable: Iterable[Tensor | None]) -> None:
    """No backward is to come that would need an inference tensor of these."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return
    for name, x in tensors.items():
        if x is None or not x.is_inference():
            continue
        if any(d is not None and d.requires_grad for d in differentiable):
            raise RuntimeError(
                f"{name}: expected a tensor that can be kept for backward, got one made under "
                "torch.inference_mode(); clone it outside of that, or call under torch.no_grad()"
            )


def _broadcastable(weight: Tensor, pred: Tensor) -> None:
    try:
        fits = torch.broadcast_shapes(weight.shape, pred.shape) == pred.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"weight: expected a shape that broadcasts to pred's {tuple(pred.shape)}, "
            f"got {tuple(weight.shape)}"
        )


def choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")


def real(name: str, value: object) -> None:
    """``value`` is a number, or a tensor of one."""
    if not (_number(value) or (isinstance(value, Tensor) and value.numel() == 1)):
        raise TypeError(f"{name}: expected a number, got {value!r}")


def finite(name: str, value: float, positive: bool = False) -> None:
    """``value`` is a finite number, and above zero if ``positive``."""
    real(name, value)
    if not math.isfinite(value) or (positive and value <= 0):
        wanted = "a positive, finite number" if positive else "a finite number"
        raise ValueError(f"{name}: expected {wanted}, got {value}")


def value_range(
    name: str, bounds: tuple[float, float] | None, value: float, positive: bool = False
) -> None:
    """``bounds`` is None or ``(low, high)``, finite and ascending, around ``value``."""
    if bounds is None:
        return
    if not isinstance(bounds, (tuple, list)):
        raise TypeError(f"{name}: expected (low, high), got {bounds!r}")
    for bound in bounds:
        real(name, bound)
    if len(bounds) != 2 or not all(math.isfinite(b) for b in bounds) or bounds[0] > bounds[1]:
        raise ValueError(f"{name}: expected (low, high) with finite low <= high, got {bounds}")
    if positive and not bounds[0] > 0:
        raise ValueError(f"{name}: expected a positive lower bound, got {bounds}")
    if not bounds[0] <= value <= bounds[1]:
        raise ValueError(f"{name}: expected bounds around the initial value {value}, got {bounds}")


def channels(name: str, value: object) -> int:
    """``value`` as an int: a positive number of channels."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    return number
