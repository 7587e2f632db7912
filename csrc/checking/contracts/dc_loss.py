"""DCLoss, Eq. 9-10."""

from __future__ import annotations

import torch
from torch import Tensor

from .derivatives import Results, gradients, leaf


def dc_loss_elements(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    k: Tensor,
    delta: Tensor,
    form: int,
    scale: float,
) -> Tensor:
    error = (pred - target).abs()
    x = (-k if form == 1 else k) * (error - delta)
    loss = scale * (torch.sigmoid(x) * error**2 + torch.sigmoid(-x) * error)
    return loss if weight is None else loss * weight


def dc_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    k: Tensor,
    delta: Tensor,
    form: int,
    reduce: bool,
    scale: float,
    with_grad: bool,
) -> Results:
    leaves = leaf(pred), leaf(k.reshape([])), leaf(delta.reshape([]))
    loss = dc_loss_elements(leaves[0], target, weight, *leaves[1:], form, scale)
    if not reduce:
        return loss.detach(), None, None, None
    loss = loss.sum()
    if not with_grad:
        return loss.detach(), None, None, None
    return loss.detach(), *gradients(loss, leaves, torch.ones_like(loss))


def dc_loss_backward(
    grad_loss: Tensor,
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    k: Tensor,
    delta: Tensor,
    form: int,
    scale: float,
) -> Results:
    leaves = leaf(pred), leaf(k.reshape([])), leaf(delta.reshape([]))
    loss = dc_loss_elements(leaves[0], target, weight, *leaves[1:], form, scale)
    return gradients(loss, leaves, grad_loss.expand_as(loss))


def dc_loss_terms(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    k: Tensor,
    delta: Tensor,
    form: int,
    scale: float,
) -> tuple[float, float, float]:
    """The sums of absolute terms of the loss and of its gradients of k and delta: what rounds."""

    def loss_of(k: Tensor, delta: Tensor) -> Tensor:
        return dc_loss_elements(pred, target, weight, k, delta, form, scale)

    k, delta = k.reshape([]), delta.reshape([])
    one, zero = torch.ones_like(k), torch.zeros_like(k)
    loss, grad_k = torch.func.jvp(loss_of, (k, delta), (one, zero))
    _, grad_delta = torch.func.jvp(loss_of, (k, delta), (zero, one))
    return tuple(terms.abs().sum().item() for terms in (loss, grad_k, grad_delta))
