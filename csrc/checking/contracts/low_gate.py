"""The low gate, Eq. 6: the border's constants, and the gate of the convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .derivatives import Results, gradients, leaf
from .high_gate import gate_logit


def border_classes(size: int, device: torch.device) -> Tensor:
    """The border class of each position of an axis."""
    classes = torch.ones(size, dtype=torch.long, device=device)
    classes[-1:] = 2
    classes[:1] = 0
    return classes


def taps_inside(border_class: int, size: int) -> list[int]:
    """The taps of an axis that fall inside of the image for a border class."""
    return {0: [1] if size == 1 else [1, 2], 1: [0, 1, 2], 2: [0, 1]}[border_class]


def border_bias(context: Tensor, weight: Tensor, bias: Tensor, H: int, W: int) -> Results:
    rows = []
    for cy in range(3):
        for cx in range(3):
            inside = weight[:, :, taps_inside(cy, H)][:, :, :, taps_inside(cx, W)]
            rows.append(F.linear(context, inside.sum((2, 3)), bias))
    return (torch.stack(rows, 1).unflatten(1, (3, 3)),)


def border_bias_backward(
    grad_border: Tensor, context: Tensor, weight: Tensor, H: int, W: int
) -> Results:
    bias = weight.new_zeros(weight.shape[0])
    leaves = leaf(context), leaf(weight), leaf(bias)
    return gradients(border_bias(*leaves, H, W)[0], leaves, grad_border)


def border_hidden(conv: Tensor, border: Tensor) -> Tensor:
    """relu(conv + border[class])."""
    cy = border_classes(conv.shape[2], conv.device)
    cx = border_classes(conv.shape[3], conv.device)
    return torch.relu(conv + border[:, cy][:, :, cx].permute(0, 3, 1, 2))


def low_gate(conv: Tensor, border: Tensor, gate_weight: Tensor, gate_bias: Tensor) -> Results:
    return (torch.sigmoid(gate_bias + gate_logit(border_hidden(conv, border), gate_weight)),)


def low_gate_backward(
    grad_gate: Tensor, gate: Tensor, conv: Tensor, border: Tensor, gate_weight: Tensor
) -> Results:
    grad_logit = grad_gate * gate * (1 - gate)
    leaves = leaf(conv), leaf(border), leaf(gate_weight)
    logit = gate_logit(border_hidden(*leaves[:2]), leaves[2])
    return *gradients(logit, leaves, grad_logit), grad_logit.sum()[None]


def border_relu(conv: Tensor, border: Tensor) -> Results:
    return (border_hidden(conv, border),)


def border_sum(grad: Tensor) -> Results:
    N, D, H, W = grad.shape
    zeros = grad.new_zeros(N, 3, 3, D).requires_grad_()
    cy, cx = border_classes(H, grad.device), border_classes(W, grad.device)
    return gradients(zeros[:, cy][:, :, cx].permute(0, 3, 1, 2), (zeros,), grad)
