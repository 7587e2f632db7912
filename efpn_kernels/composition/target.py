"""What a composition needs to know of a backend's kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def checked(operator: str, check: Callable[..., None], *tensors: Tensor | None) -> None:
    """Refuse arguments in the operator's name, as the composition in C++ does."""
    try:
        check(*tensors, autocast=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{operator}: {error}") from None


@dataclass(frozen=True)
class Target:
    """The kernels of a namespace and how its convolutions are made."""

    namespace: str
    fuses_convolutions: Callable[[Tensor], bool] = lambda x: False
    """Whether convolutions of the map are the backend's own, with what stands before and behind them fused."""
    library_adds_bias: bool = False
    """Whether the library's convolution adds the bias in its own pass, before it rounds."""

    def fuses_channel_gates(self, x: Tensor) -> bool:
        """Whether those of a mask per channel are its own, too: the gates' and the fuse convolution."""
        return x.dtype == torch.float32 and self.fuses_convolutions(x)

    @property
    def kernels(self) -> Any:
        """The kernels, by name."""
        return getattr(torch.ops, self.namespace)
