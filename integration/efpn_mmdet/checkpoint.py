"""Resume mmengine checkpoints under PyTorch's safe loading (``weights_only=True``).

An mmengine checkpoint carries its logs: ``HistoryBuffer`` objects with numpy arrays inside. PyTorch
refuses these classes unless they are on its allowlist. :func:`allow_mmengine_checkpoints` puts
exactly those there. Safe loading itself stays on, so a file that asks for anything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from numpy._core import multiarray

# ``HistoryBuffer`` pickles its table of statistics as ``getattr(HistoryBuffer, name)``.
_STATISTICS = ("current", "max", "mean", "min")
# What logs and meta data are made of; dtypes of objects are not among them.
_DTYPES = ("bool", "int32", "int64", "uint8", "float16", "float32", "float64", "str")


def _statistic(owner: type, name: str) -> Callable[..., Any]:
    """``getattr`` as ``HistoryBuffer`` needs it; anything else could reach the interpreter."""
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise ValueError(
            f"getattr in a checkpoint: expected HistoryBuffer and one of {_STATISTICS}, "
            f"got {owner!r} and {name!r}"
        )
    return getattr(owner, name)


def safe_globals() -> list[Any]:
    """What mmengine's checkpoints hold beyond tensors, in the form of ``add_safe_globals``."""
    numpy_functions = [
        (getattr(multiarray, name), f"{module}.{name}")
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")  # numpy 1 and numpy 2
        for name in ("_reconstruct", "scalar")
    ]
    dtypes = [type(np.dtype(name)) for name in _DTYPES]
    return [
        HistoryBuffer,
        (_statistic, "builtins.getattr"),
        np.ndarray,
        np.dtype,
        *dtypes,
        *numpy_functions,
    ]


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` read the checkpoints that mmengine writes; importing the package does so."""
    torch.serialization.add_safe_globals(safe_globals())
