"""How precise the block's convolutions of float32 maps are."""

from __future__ import annotations

import os

from ._switch import Switch

ENVIRONMENT_VARIABLE = "EFPN_KERNELS_FLOAT32_PRECISION"


class use_float32_precision(Switch):
    """Choose the precision of the block's float32 convolutions, for all following calls or a ``with`` block.

    A setter, a context manager and a decorator for the process, as :class:`use_backend` is. What differs is the
    CPU backend, forward and in the gradients of the maps; other dtypes and other backends are the same with both.

    ``torch.set_float32_matmul_precision`` says of itself that it leaves convolutions alone, and programs set it for
    their GPU: it is not asked.

    Args:
        name: ``"highest"`` (the default): at most 1.25 times eager's error. ``"high"``: a faster algorithm
            whose error is at most six times eager's. A compiled program follows the choice by compiling again;
            an exported one keeps what held at its export.

    Raises:
        ValueError: for any other name.
    """

    names = ("highest", "high")
    choice = os.environ.get(ENVIRONMENT_VARIABLE) or "highest"


def current_float32_precision() -> str:
    """The choice that holds: a name of :class:`use_float32_precision`.

    Raises:
        ValueError: if the environment has chosen another name.
    """
    choice = use_float32_precision.choice
    if (
        choice not in use_float32_precision.names
    ):  # only the environment can bring another name here
        raise ValueError(
            f"{ENVIRONMENT_VARIABLE}: expected one of {use_float32_precision.names}, got {choice!r}"
        )
    return choice
