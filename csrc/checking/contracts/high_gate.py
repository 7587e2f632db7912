"""The high gate, Eq. 6: taps of the low-resolution map, interpolated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .derivatives import Results, gradients, leaf


def taps(p_high: Tensor, weight: Tensor) -> Results:
    N, _, h, w = p_high.shape
    product = torch.einsum("nchw,dcyx->nhwyxd", p_high, weight)
    return (product.reshape(N, h, w, 9, weight.shape[0]),)


def taps_backward(grad_taps: Tensor, p_high: Tensor, weight: Tensor) -> Results:
    leaves = leaf(p_high), leaf(weight)
    return gradients(taps(*leaves)[0], leaves, grad_taps)


def upsampled_hidden(taps: Tensor, bias: Tensor, H: int, W: int) -> Tensor:
    """relu(A) of the contract: nine interpolated tap maps, each shifted by its tap, and the bias."""
    N, D = taps.shape[0], taps.shape[-1]
    hidden = bias[None, :, None, None].expand(N, D, H, W)
    for tap in range(9):
        ky, kx = divmod(tap, 3)
        low = taps[:, :, :, tap].permute(0, 3, 1, 2)
        high = F.interpolate(low, size=(H, W), mode="bilinear", align_corners=False)
        hidden = hidden + F.pad(high, (1, 1, 1, 1))[:, :, ky : ky + H, kx : kx + W]
    return torch.relu(hidden)


def gate_logit(hidden: Tensor, gate_weight: Tensor) -> Tensor:
    return torch.einsum("ndyx,d->nyx", hidden, gate_weight)[:, None]


def upsampled_gate(
    taps: Tensor, bias: Tensor, gate_weight: Tensor, gate_bias: Tensor, H: int, W: int
) -> Results:
    return (torch.sigmoid(gate_bias + gate_logit(upsampled_hidden(taps, bias, H, W), gate_weight)),)


def upsampled_gate_backward(
    grad_gate: Tensor, gate: Tensor, taps: Tensor, bias: Tensor, gate_weight: Tensor
) -> Results:
    grad_logit = grad_gate * gate * (1 - gate)
    leaves = leaf(taps), leaf(bias), leaf(gate_weight)
    logit = gate_logit(upsampled_hidden(leaves[0], leaves[1], *gate.shape[2:]), leaves[2])
    return *gradients(logit, leaves, grad_logit), grad_logit.sum()[None]


def upsampled_relu(taps: Tensor, bias: Tensor, H: int, W: int, channels_last: bool) -> Results:
    return (upsampled_hidden(taps, bias, H, W),)


def upsampled_relu_backward(grad: Tensor, taps: Tensor, bias: Tensor) -> Results:
    leaves = leaf(taps), leaf(bias)
    return gradients(upsampled_hidden(*leaves, *grad.shape[2:]), leaves, grad)
