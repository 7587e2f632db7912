"""What the contracts are made with."""

from __future__ import annotations

import torch
from torch import Tensor

Results = tuple[Tensor | None, ...]


def gradients(outputs: Tensor, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    """Vector-Jacobian product, zero for inputs that nothing depends on."""
    return torch.autograd.grad(outputs, inputs, grad, allow_unused=True, materialize_grads=True)


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()
