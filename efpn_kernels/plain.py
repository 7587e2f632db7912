"""Whether the parts of a module are what a fused kernel takes them for.

A fused kernel reads the parameters of convolutions that it does not call. People replace, wrap, prune, quantise
and hook such parts; then the kernel must not run, but the parts themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_GLOBAL_HOOKS = (
    nn_module._global_forward_hooks,
    nn_module._global_forward_pre_hooks,
    nn_module._global_backward_hooks,
    nn_module._global_backward_pre_hooks,
)
PLAIN_1X1 = ((1, 1), (0, 0), (1, 1), 1, "zeros")
PLAIN_3X3 = ((1, 1), (1, 1), (1, 1), 1, "zeros")


def is_plain(part: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Whether calling ``part`` runs the forward of ``kind`` and nothing else."""
    if type(part) is not kind:
        return False
    attributes = part.__dict__
    return "forward" not in attributes and not (
        attributes["_forward_hooks"]
        or attributes["_forward_pre_hooks"]
        or attributes["_backward_hooks"]
        or attributes["_backward_pre_hooks"]
    )


def any_global_hook() -> bool:
    """Whether hooks are set that fire for every module of the process."""
    first, second, third, fourth = _GLOBAL_HOOKS
    return bool(first or second or third or fourth)


def plain_parameters(module: nn.Module, names: Iterable[tuple[str, tuple]]) -> list[Tensor] | None:
    """Weights and biases of the convolutions ``names`` of ``module``; None unless all are plain.

    Args:
        module: holds the convolutions as direct children.
        names: of each its name and what it must be configured like: ``PLAIN_1X1`` or ``PLAIN_3X3``.
    """
    children = module.__dict__["_modules"]
    parameters = []
    for name, configuration in names:
        conv = children.get(name)
        if not is_plain(conv, nn.Conv2d):
            return None
        attributes = conv.__dict__
        if configuration != (
            attributes["stride"],
            attributes["padding"],
            attributes["dilation"],
            attributes["groups"],
            attributes["padding_mode"],
        ):
            return None
        own = attributes["_parameters"]
        weight, bias = own.get("weight"), own.get("bias")
        if not (_is_ordinary(weight) and _is_ordinary(bias)):
            return None
        parameters += (weight, bias)
    return parameters


def _is_ordinary(x: Tensor | None) -> bool:
    """Whether ``x`` is a tensor, and no wrapper around others: no DTensor, nothing quantised."""
    kind = type(x)
    return kind is nn.Parameter or (x is not None and not is_traceable_wrapper_subclass(x))
