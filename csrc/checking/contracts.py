"""The contract of every kernel as a plain PyTorch expression, on float64 tensors.

``CONTRACTS[name](*args)`` takes the arguments of the kernel ``name`` (``efpn_kernels.ops.kernels``)
and returns the tuple of its results, then of the arguments that it changes in place. ``None`` stands
for a result of zero elements. Backward contracts differentiate the forward expression by autograd.

``RESULTS[name]`` names the kind of each result:

==========  ===================================================================================
``map``     dtype ``T`` in the memory format of the call
``T``       dtype ``T``
``acc``     the accumulation dtype, contiguous
``weight``  the accumulation dtype with the strides of the argument ``weight``
``index``   int32
==========  ===================================================================================
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Results = tuple[Tensor | None, ...]


def gradients(outputs: Tensor, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    """Vector-Jacobian product, zero for inputs that nothing depends on."""
    return torch.autograd.grad(outputs, inputs, grad, allow_unused=True, materialize_grads=True)


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


# ---- CEM --------------------------------------------------------------------------------------------


def pooled_context(p_high: Tensor, weight: Tensor, bias: Tensor) -> Results:
    flat = p_high.flatten(2)
    pooled = flat.amax(-1)
    is_max = (flat == pooled[..., None]) | flat.isnan()
    index = is_max.int().argmax(-1)
    return torch.relu(F.linear(pooled, weight, bias)), pooled, index


def pooled_context_backward(
    grad_context: Tensor,
    context: Tensor,
    pooled: Tensor,
    index: Tensor,
    weight: Tensor,
    grad_p_high: Tensor,
) -> Results:
    grad_z = torch.where(context <= 0, 0.0, grad_context)
    scatter = torch.zeros_like(grad_p_high).flatten(2)
    scatter.scatter_(2, index.long()[..., None], (grad_z @ weight)[..., None])
    merged = grad_p_high + scatter.view_as(grad_p_high)
    return grad_z.T @ pooled, grad_z.sum(0), merged


def context_add(p_low: Tensor, context: Tensor | None) -> Results:
    return (p_low if context is None else p_low + context[:, :, None, None],)


def spatial_sum(x: Tensor) -> Results:
    return (x.sum((2, 3)),)


# ---- FBSM: the high gate --------------------------------------------------------------------------------


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


# ---- FBSM: the low gate ---------------------------------------------------------------------------------


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


# ---- FBSM: fuse, separate, refine -----------------------------------------------------------------------


def gate_apply(
    p_low: Tensor,
    context: Tensor | None,
    m_high: Tensor,
    m_low: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor,
) -> Results:
    mask = torch.sigmoid(F.conv2d(m_high + m_low, fuse_weight, fuse_bias, padding=1))
    return context_add(p_low, context)[0] * mask, mask


def mask_apply(p_low: Tensor, context: Tensor | None, mask: Tensor) -> Results:
    return (context_add(p_low, context)[0] * mask,)


def mask_apply_backward(
    grad_x: Tensor, p_low: Tensor, context: Tensor | None, mask: Tensor
) -> Results:
    logit = leaf(torch.logit(mask))
    added = p_low.new_zeros(p_low.shape[:2]).requires_grad_()
    total = context_add(p_low, context)[0] + added[:, :, None, None]
    grad_logit, grad_context = gradients(total * torch.sigmoid(logit), (logit, added), grad_x)
    return grad_logit, None if context is None else grad_context


def mask_merge_(grad_p_low: Tensor, grad_x: Tensor, mask: Tensor) -> Results:
    return (grad_p_low + grad_x * mask,)


def bias_relu_(x: Tensor, bias: Tensor) -> Results:
    return (torch.relu(x + bias[:, None, None]),)


def fuse_backward(
    grad_logit: Tensor, m_high: Tensor, m_low: Tensor, fuse_weight: Tensor
) -> Results:
    leaves = leaf(m_high + m_low), leaf(fuse_weight)
    return *gradients(F.conv2d(*leaves, padding=1), leaves, grad_logit), grad_logit.sum()[None]


def relu_backward(grad_out: Tensor, out: Tensor) -> Results:
    grad = torch.where(out <= 0, 0.0, grad_out)
    return grad, grad.sum((0, 2, 3))


# ---- DCLoss ---------------------------------------------------------------------------------------------


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


CONTRACTS: dict[str, Callable[..., Results]] = {
    contract.__name__: contract
    for contract in (
        pooled_context,
        pooled_context_backward,
        context_add,
        spatial_sum,
        taps,
        taps_backward,
        upsampled_gate,
        upsampled_gate_backward,
        upsampled_relu,
        upsampled_relu_backward,
        border_bias,
        border_bias_backward,
        low_gate,
        low_gate_backward,
        border_relu,
        border_sum,
        gate_apply,
        mask_apply,
        mask_apply_backward,
        mask_merge_,
        bias_relu_,
        fuse_backward,
        relu_backward,
        dc_loss,
        dc_loss_backward,
    )
}

RESULTS: dict[str, tuple[str, ...]] = {
    "pooled_context": ("acc", "T", "index"),
    "pooled_context_backward": ("acc", "acc", "map"),
    "context_add": ("map",),
    "spatial_sum": ("acc",),
    "taps": ("acc",),
    "taps_backward": ("map", "weight"),
    "upsampled_gate": ("acc",),
    "upsampled_gate_backward": ("acc", "acc", "acc", "acc"),
    "upsampled_relu": ("map",),
    "upsampled_relu_backward": ("acc", "acc"),
    "border_bias": ("acc",),
    "border_bias_backward": ("acc", "weight", "acc"),
    "low_gate": ("acc",),
    "low_gate_backward": ("map", "acc", "acc", "acc"),
    "border_relu": ("map",),
    "border_sum": ("acc",),
    "gate_apply": ("map", "acc"),
    "mask_apply": ("map",),
    "mask_apply_backward": ("map or acc", "acc"),
    "mask_merge_": ("map",),
    "bias_relu_": ("map",),
    "fuse_backward": ("acc", "acc", "acc"),
    "relu_backward": ("map", "acc"),
    "dc_loss": ("acc or T", "T", "acc", "acc"),
    "dc_loss_backward": ("T", "acc", "acc"),
}
