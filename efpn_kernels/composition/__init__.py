"""The operators composed in Python from the kernels of a namespace: what Triton's backend runs.

The compiled libraries compose theirs in ``csrc/common``, in the same order and with the same bits.
"""

from __future__ import annotations

from functools import partial

from torch.library import Library

from . import cem, efpn_bs
from .target import Target

__all__ = ["Target", "register"]


def register(library: Library, target: Target, key: str) -> None:
    """Make the composed operators the kernels of ``library`` for the dispatch key."""
    for name, module in (("cem", cem), ("efpn_bs", efpn_bs)):
        library.impl(name, partial(module.forward, target), key)
        library.impl(f"{name}_backward", partial(module.backward, target), key)
