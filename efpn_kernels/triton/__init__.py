"""The Triton backend: every kernel of ``efpn_kernels.ops.kernels`` in the namespace ``efpn_triton``.

Kernels run on the current stream, never synchronise with the host and take their launch settings from
fixed tables, so they can be captured in a CUDA graph and give the same bits in every run.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import torch

from ..composition import Target
from ..composition import register as register_composed
from . import (
    cem,
    cem_backward,
    dc_loss,
    high_gate,
    high_gate_backward,
    high_gate_taps,
    low_gate,
    low_gate_backward,
    low_gate_border_bias,
    reduce,
    refine_fuse_backward,
    refine_gate_apply,
    refine_mask_apply,
)

KERNELS: tuple[Callable, ...] = (
    cem.pooled_context,
    cem_backward.pooled_context_backward,
    cem.context_add,
    reduce.spatial_sum,
    high_gate_taps.taps,
    high_gate_taps.taps_backward,
    high_gate.upsampled_gate,
    high_gate_backward.upsampled_gate_backward,
    high_gate.upsampled_relu,
    high_gate_backward.upsampled_relu_backward,
    low_gate_border_bias.border_bias,
    low_gate_border_bias.border_bias_backward,
    low_gate.low_gate,
    low_gate_backward.low_gate_backward,
    low_gate.border_relu,
    low_gate.bias_relu_,
    low_gate_backward.border_sum,
    refine_gate_apply.gate_apply,
    refine_mask_apply.mask_apply,
    refine_mask_apply.mask_apply_backward,
    refine_mask_apply.mask_merge_,
    refine_fuse_backward.fuse_backward,
    reduce.relu_backward,
    dc_loss.dc_loss,
    dc_loss.dc_loss_backward,
)


def on_device_of_first(kernel: Callable) -> Callable:
    """Launch on the device of the first argument, also where it is not the current one."""

    @functools.wraps(kernel)
    def guarded(x: torch.Tensor, *args: object) -> object:
        if x.get_device() == torch.cuda.current_device():
            return kernel(x, *args)
        with torch.cuda.device_of(x):
            return kernel(x, *args)

    return guarded


def register(library: torch.library.Library) -> None:
    """Register every kernel for CUDA and, where the interpreter runs Triton, for the CPU."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    for kernel in KERNELS:
        library.impl(kernel.__name__, on_device_of_first(kernel), "CUDA")
        if interpreted:
            library.impl(kernel.__name__, kernel, "CPU")
    register_composed(library, Target("efpn_triton"), "CUDA")
    if interpreted:
        register_composed(library, Target("efpn_triton", library_adds_bias=True), "CPU")
