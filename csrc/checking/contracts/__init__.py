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

from .cem import context_add, pooled_context, pooled_context_backward, spatial_sum
from .dc_loss import dc_loss, dc_loss_backward, dc_loss_terms
from .derivatives import Results
from .high_gate import (
    taps,
    taps_backward,
    upsampled_gate,
    upsampled_gate_backward,
    upsampled_relu,
    upsampled_relu_backward,
)
from .low_gate import (
    border_bias,
    border_bias_backward,
    border_relu,
    border_sum,
    low_gate,
    low_gate_backward,
)
from .refine import (
    bias_relu_,
    fuse_backward,
    gate_apply,
    mask_apply,
    mask_apply_backward,
    mask_merge_,
    relu_backward,
)

__all__ = ["CONTRACTS", "RESULTS", "dc_loss_terms"]

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
