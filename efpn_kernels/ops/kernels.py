"""Schemas of the kernels that a backend provides: the contract between ``ops`` and the backends.

Every backend owns a namespace of the dispatcher, and this module defines the same kernels in each:

===============  ==============================================================================
``efpn``         C++: ``csrc/cpu`` registers the CPU key, ``csrc/cuda`` the CUDA key
``efpn_triton``  Triton: ``efpn_kernels/triton`` registers the CUDA key (and the CPU key where
                 ``TRITON_INTERPRET=1`` runs the kernels on the CPU)
===============  ==============================================================================

Kernels have no autograd and check nothing: the composed operators (``csrc/common``, and ``composition``
for Triton) have checked shapes, dtypes and devices, and made every tensor dense.

Conventions
-----------
``T``
    dtype of the feature maps and of every parameter: float16, bfloat16, float32 or float64.
``acc``
    dtype of accumulation: float32 for float16, bfloat16 and float32; float64 for float64.
map
    ``[N, C, H, W]`` of dtype ``T``, dense, contiguous or channels_last. All maps of a call have the
    same format, and a kernel returns its maps in that format. A kernel may treat a map for which
    ``is_contiguous()`` holds as contiguous, and every other one as channels_last.
gate
    ``[N, 1, H, W]``, contiguous, dtype ``acc``, values after the sigmoid.
sizes
    ``N, C, H, W`` as in the map; ``D`` hidden channels; ``h, w`` the low-resolution level. Any of
    ``N, H, W`` may be zero where the result is empty or a sum over nothing; ``H`` and ``W`` may be
    1 or 2; ``h`` may exceed ``H``. Offsets are 64-bit where a map can pass 2**31 elements.
order
    Every reduction has a fixed order that depends on shapes only: the same bits in every run and
    for every number of threads. No floating-point atomics.
special values
    NaN and infinity go where PyTorch's operators take them: a ReLU keeps NaN, and so does its gradient.
gradients
    Gradients of parameters come back in ``acc``; the operator casts them. Gradients of maps are maps.
"""

from __future__ import annotations

import torch

NAMESPACES = ("efpn", "efpn_triton")

KERNELS: dict[str, str] = {
    # ---- CEM: the pooled context, Eq. 2-3 -----------------------------------------------------
    # pooled[n, c] = max over h, w of p_high[n, c] (dtype T; NaN wins), index[n, c] its first
    # position i * w + j in row-major order (int32), whatever the memory format;
    # context[n, d] = relu(bias[d] + sum_c weight[d, c] pooled[n, c]) in acc. weight is [Cl, Ch].
    "pooled_context": "(Tensor p_high, Tensor weight, Tensor bias) -> (Tensor context, Tensor pooled, Tensor index)",
    # With gz = grad_context, 0 where context <= 0: grad_weight = gz^T pooled, grad_bias = sum_n gz, and
    # (gz weight)[n, c] is ADDED to grad_p_high[n, c, index[n, c]]. grad_context, context are acc.
    "pooled_context_backward": "(Tensor grad_context, Tensor context, Tensor pooled, Tensor index, Tensor weight, "
    "Tensor(a!) grad_p_high) -> (Tensor grad_weight, Tensor grad_bias)",
    # ---- CEM: Eq. 4 ---------------------------------------------------------------------------
    # out[n, c, y, x] = p_low[n, c, y, x] + context[n, c]; context is acc.
    "context_add": "(Tensor p_low, Tensor context) -> Tensor",
    # [N, C, H, W] -> [N, C] in acc.
    "spatial_sum": "(Tensor x) -> Tensor",
    # ---- FBSM: the high gate, Eq. 6, commuted (see csrc/derivation.md) --------------------------
    # taps[n, i, j, 3 * ky + kx, d] = sum_c weight[d, c, ky, kx] p_high[n, c, i, j], contiguous
    # [N, h, w, 9, D], acc. weight is [D, C, 3, 3], contiguous or channels_last.
    "taps": "(Tensor p_high, Tensor weight) -> Tensor",
    # The adjoint: grad_p_high, a map like p_high, and grad_weight (shape and strides of weight), acc.
    "taps_backward": "(Tensor grad_taps, Tensor p_high, Tensor weight) -> (Tensor grad_p_high, Tensor grad_weight)",
    # A[n, d, y, x] = bias[d] + sum_{ky, kx} bilinear(taps[.., ky, kx, d])(y + ky - 1, x + kx - 1),
    # where a position outside of the H x W image contributes zero and bilinear() is
    # F.interpolate(..., size=(H, W), mode="bilinear", align_corners=False).
    # gate = sigmoid(gate_bias + sum_d gate_weight[d] relu(A[d])), a gate [N, 1, H, W].
    # gate_weight is [D], gate_bias [1], bias [D].
    "upsampled_gate": "(Tensor taps, Tensor bias, Tensor gate_weight, Tensor gate_bias, int H, int W) -> Tensor",
    # Recomputes A. grad_gate and gate are gates; grad_taps has the shape of taps, acc.
    "upsampled_gate_backward": "(Tensor grad_gate, Tensor gate, Tensor taps, Tensor bias, Tensor gate_weight) "
    "-> (Tensor grad_taps, Tensor grad_bias, Tensor grad_gate_weight, Tensor grad_gate_bias)",
    # For a mask per channel: relu(A) as a map [N, D, H, W] of bias' dtype.
    "upsampled_relu": "(Tensor taps, Tensor bias, int H, int W, bool channels_last) -> Tensor",
    # grad is a map [N, D, H, W]: the gradient of relu(A).
    "upsampled_relu_backward": "(Tensor grad, Tensor taps, Tensor bias) -> (Tensor grad_taps, Tensor grad_bias)",
    # ---- FBSM: the low gate, Eq. 6, with the context as a constant per border class -----------------
    # conv3x3(p_low + context) = conv3x3(p_low) + border, where border depends on the pixel's class:
    # cy = 0 for y = 0, 2 for y = H - 1 (and y > 0), else 1; cx likewise.
    # border[n, cy, cx, d] = bias[d] + sum over the taps (ky, kx) that fall inside the image of
    # sum_c weight[d, c, ky, kx] context[n, c]; acc, contiguous [N, 3, 3, D]; weight is [D, C, 3, 3],
    # contiguous or channels_last. Class 0 has ky in {1, 2} ({1} if H = 1), class 1 all, class 2 {0, 1}.
    "border_bias": "(Tensor context, Tensor weight, Tensor bias, int H, int W) -> Tensor",
    # The adjoint: grad_context [N, C], grad_weight (shape and strides of weight), grad_bias [D]; acc.
    "border_bias_backward": "(Tensor grad_border, Tensor context, Tensor weight, int H, int W) "
    "-> (Tensor grad_context, Tensor grad_weight, Tensor grad_bias)",
    # conv is a map [N, D, H, W], a convolution's output without bias.
    # gate = sigmoid(gate_bias + sum_d gate_weight[d] relu(conv[d] + border[class, d])).
    "low_gate": "(Tensor conv, Tensor border, Tensor gate_weight, Tensor gate_bias) -> Tensor",
    # grad_conv is a map; grad_border [N, 3, 3, D] sums it over the pixels of each class.
    "low_gate_backward": "(Tensor grad_gate, Tensor gate, Tensor conv, Tensor border, Tensor gate_weight) "
    "-> (Tensor grad_conv, Tensor grad_border, Tensor grad_gate_weight, Tensor grad_gate_bias)",
    # For a mask per channel: relu(conv + border) as a map, and the sums over classes of a map.
    "border_relu": "(Tensor conv, Tensor border) -> Tensor",
    "border_sum": "(Tensor grad) -> Tensor",
    # ---- FBSM: fuse, separate, Eq. 7 and 5 ---------------------------------------------------------
    # mask = sigmoid(fuse_bias + conv3x3(m_high + m_low, fuse_weight)) with zero padding, a gate;
    # x = (p_low + context) * mask, a map. fuse_weight is [1, 1, 3, 3], fuse_bias [1];
    # context is acc [N, C] or None.
    "gate_apply": "(Tensor p_low, Tensor? context, Tensor m_high, Tensor m_low, Tensor fuse_weight, Tensor fuse_bias) "
    "-> (Tensor x, Tensor mask)",
    # x = (p_low + context) * mask for a given mask: a gate [N, 1, H, W], or a map [N, C, H, W].
    "mask_apply": "(Tensor p_low, Tensor? context, Tensor mask) -> Tensor",
    # mask as above. grad_logit = mask (1 - mask) grad_x (p_low + context), summed over C where the
    # mask is a gate (then grad_logit is acc [N, 1, H, W], else a map);
    # grad_context[n, c] = sum_{y, x} grad_x mask, acc (zero elements where context is None).
    "mask_apply_backward": "(Tensor grad_x, Tensor p_low, Tensor? context, Tensor mask) "
    "-> (Tensor grad_logit, Tensor grad_context)",
    # grad_p_low += grad_x * mask, in place; mask as above.
    "mask_merge_": "(Tensor(a!) grad_p_low, Tensor grad_x, Tensor mask) -> ()",
    # The backward of the fuse convolution: grad_logit [N, 1, H, W] acc -> grad_sum (the gradient of
    # m_high + m_low, so of both; acc [N, 1, H, W]), grad_fuse_weight [1, 1, 3, 3], grad_fuse_bias [1].
    "fuse_backward": "(Tensor grad_logit, Tensor m_high, Tensor m_low, Tensor fuse_weight) "
    "-> (Tensor grad_sum, Tensor grad_fuse_weight, Tensor grad_fuse_bias)",
    # ---- FBSM: refine, Eq. 8 -------------------------------------------------------------------------
    # x = relu(x + bias[c]), in place; bias has the dtype of x. Only where the library's convolution would add the
    # bias in a pass of its own.
    "bias_relu_": "(Tensor(a!) x, Tensor bias) -> ()",
    # grad = grad_out, 0 where out <= 0, a map; grad_bias[c] its sum over n, y, x.
    "relu_backward": "(Tensor grad_out, Tensor out) -> (Tensor grad, Tensor grad_bias)",
    # ---- DCLoss, Eq. 9-10 -------------------------------------------------------------------------------
    # An operator of its own: it checks what it is given. Its form is a DCLossForm of ops/dc_loss.py.
    # pred, target, weight: one shape, any strides, dtype T; k, delta: one element each, any float dtype.
    # a = sigmoid(s k (e - delta)), b = 1 - a, e = |pred - target|, s = 1 for EQUATION, -1 for TEXT.
    # l = scale * weight * (a e^2 + b e).
    # reduce: loss = sum l, shape [], acc; with_grad also gives grad_pred (T, contiguous), grad_k and
    #   grad_delta (acc, shape []) of that sum; tensors of zero elements otherwise.
    # not reduce: loss = l, T, contiguous; the three gradients have zero elements.
    "dc_loss": "(Tensor pred, Tensor target, Tensor? weight, Tensor k, Tensor delta, int form, "
    "bool reduce, float scale, bool with_grad) -> (Tensor loss, Tensor grad_pred, Tensor grad_k, Tensor grad_delta)",
    # The gradients for an elementwise grad_loss (shape and dtype of pred, any strides), or for that of
    # the sum (shape [], any float dtype): grad_pred, and grad_k, grad_delta (acc, shape []).
    # dl/de = scale weight (2 a e + b + s k a b e (e - 1)); d/dpred has the sign of pred - target (0
    # where equal); dl/dk = scale weight s a b (e - delta) e (e - 1); dl/ddelta = -scale weight s k a b e (e - 1).
    "dc_loss_backward": "(Tensor grad_loss, Tensor pred, Tensor target, Tensor? weight, Tensor k, Tensor delta, "
    "int form, float scale) -> (Tensor grad_pred, Tensor grad_k, Tensor grad_delta)",
}

# Convolutions fused with what stands before and behind them. A backend may leave them out, or provide
# them for some dtypes only: the operators then use the library's convolution and the kernels above.
# Where `reduced` allows it, a faster algorithm may make six times the error of the library's convolution.
FUSED_CONVOLUTIONS: dict[str, str] = {
    # low_gate of conv3x3(p_low, weight), nothing of [N, D, H, W] written. With keep, `kept` is what the
    # backward needs besides its inputs, in a form of the backend's own; else it has zero elements.
    "low_gate_conv": "(Tensor p_low, Tensor weight, Tensor border, Tensor gate_weight, Tensor gate_bias, bool keep, "
    "bool reduced=False) -> (Tensor gate, Tensor kept)",
    # low_gate_backward, then the convolution's own gradients (those of border go to border_bias_backward).
    # grad_weight has the shape of weight.
    "low_gate_conv_backward": "(Tensor grad_gate, Tensor gate, Tensor kept, Tensor p_low, Tensor weight, "
    "Tensor border, Tensor gate_weight, bool reduced=False) "
    "-> (Tensor grad_p_low, Tensor grad_weight, Tensor grad_border, "
    "Tensor grad_gate_weight, Tensor grad_gate_bias)",
    # border_relu of conv3x3(p_low, weight), for a mask per channel.
    "low_hidden_conv": "(Tensor p_low, Tensor weight, Tensor border, bool reduced=False) -> Tensor",
    # grad_hidden, a map, is the gradient of hidden; grad_border sums that of the convolution over each class.
    "low_hidden_conv_backward": "(Tensor grad_hidden, Tensor hidden, Tensor p_low, Tensor weight, "
    "bool reduced=False) -> (Tensor grad_p_low, Tensor grad_weight, Tensor grad_border)",
    # sigmoid(conv1x1(hidden, weight) + bias), a map [N, G, H, W] for a mask per channel; weight is [G, D, 1, 1].
    "pointwise_gate_conv": "(Tensor hidden, Tensor weight, Tensor bias, bool channels_last) -> Tensor",
    # grad_gate and gate are maps.
    "pointwise_gate_conv_backward": "(Tensor grad_gate, Tensor gate, Tensor hidden, Tensor weight) "
    "-> (Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)",
    # The mask per channel: sigmoid(conv3x3(m_high + m_low, weight) + bias), all of them maps.
    "fuse_conv": "(Tensor m_high, Tensor m_low, Tensor weight, Tensor bias, bool reduced=False) -> Tensor",
    # grad_sum is the gradient of m_high + m_low, a map.
    "fuse_conv_backward": "(Tensor grad_logit, Tensor m_high, Tensor m_low, Tensor weight, "
    "bool reduced=False) -> (Tensor grad_sum, Tensor grad_weight, Tensor grad_bias)",
    # The mask of gate_apply alone, in front of refine_conv.
    "fuse_mask": "(Tensor m_high, Tensor m_low, Tensor fuse_weight, Tensor fuse_bias) -> Tensor",
    # relu(conv3x3((p_low + context) * mask, weight) + bias); mask as in mask_apply.
    "refine_conv": "(Tensor p_low, Tensor? context, Tensor mask, Tensor weight, Tensor bias, bool reduced=False) "
    "-> Tensor",
    # With grad = grad_out, 0 where out <= 0: the gradients of the convolution's input x, weight and bias.
    "refine_conv_backward": "(Tensor grad_out, Tensor out, Tensor p_low, Tensor? context, Tensor mask, Tensor weight, "
    "bool reduced=False) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
}

if "LIBRARIES" not in globals():  # a module that is reloaded keeps what it has registered
    LIBRARIES = {name: torch.library.Library(name, "FRAGMENT") for name in NAMESPACES}
    for _library in LIBRARIES.values():
        for _name, _schema in {**KERNELS, **FUSED_CONVOLUTIONS}.items():
            _library.define(_name + _schema)
    LIBRARIES["efpn"].define("cpu_capability() -> int")


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that kernels accumulate in for maps of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32
