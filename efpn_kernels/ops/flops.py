"""What ``torch.utils.flop_counter`` counts for the operators: the convolutions of the plain PyTorch twin.

The kernels need fewer operations; a figure that compares models counts what they define. A backward counts twice
its forward: the gradients of the inputs and of the weights.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from .efpn_bs import PARAMETERS
from .kernels import NAMESPACES

Shape = tuple[int, ...]


def _convolution(batch: int, size: Shape, weight: Shape) -> int:
    return 2 * batch * prod(size) * prod(weight)


def cem(p_low: Shape, p_high: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """The projection."""
    return _convolution(p_low[0], (1, 1), weight)


def cem_backward(grad_out: Shape, p_high: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """Its gradients."""
    return 2 * _convolution(p_high[0], (1, 1), weight)


def efpn_bs(p_low: Shape, p_high: Shape, *rest: Any, **_: Any) -> int:
    """The projection, if there is one, and six convolutions at the size of ``p_low``."""
    total = 0
    for name, shape in zip(PARAMETERS, rest):
        if name.endswith("_weight") and shape is not None:
            size = (1, 1) if name == "project_weight" else p_low[2:]
            total += _convolution(p_low[0], size, shape)
    return total


def efpn_bs_backward(
    grad_out: Shape, out: Shape, p_low: Shape, p_high: Shape, *rest: Any, **_: Any
) -> int:
    """Their gradients."""
    return 2 * efpn_bs(p_low, p_high, *rest)


def register() -> None:
    """Tell PyTorch's counter, unless importing it fails: it imports Triton, which may be damaged."""
    try:
        from torch.utils.flop_counter import register_flop_formula
    except Exception:
        return
    for namespace in NAMESPACES:
        for formula in (cem, cem_backward, efpn_bs, efpn_bs_backward):
            operator = getattr(getattr(torch.ops, namespace), formula.__name__)
            register_flop_formula(operator)(formula)
