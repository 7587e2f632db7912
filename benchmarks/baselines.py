"""Who is measured: ours on each backend, eager, ``torch.compile``, other engines, floors, a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import efpn_kernels

from .records import AUTOGRAD, COMPILE, COMPILE_MAX, COPY, EAGER, FLOOR, OURS, REDUCED, RIVALS
from .rivals import ENGINES
from .workload import Group, Workload, as_format

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Entrant:
    """Who takes part.

    Args:
        variant: a name of :mod:`~benchmarks.records`.
        memory_format: a key of :data:`~benchmarks.workload.FORMATS`.
        backend: of ours, else None.
    """

    variant: str
    memory_format: str
    backend: str | None = None

    def __str__(self) -> str:
        backend = f" ({self.backend})" if self.backend else ""
        return f"{self.variant}{backend}, {self.memory_format}"


@dataclass(eq=False)
class Candidate:
    """An entrant that can run.

    Args:
        entrant: who it is.
        module: called with the inputs.
        adapt: turns the workload's inputs into this candidate's own.
        differentiable: whether a training step runs its backward.
        checked: whether its results must agree with the oracle.
    """

    entrant: Entrant
    module: nn.Module
    adapt: Callable[[Inputs], Inputs] = tuple
    differentiable: bool = True
    checked: bool = True
    parameters: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = tuple(self.module.parameters())

    def activate(self) -> AbstractContextManager:
        """Selects the backend or the precision for as long as this candidate runs."""
        if self.entrant.variant == REDUCED:
            return efpn_kernels.use_float32_precision("high")
        backend = self.entrant.backend
        return efpn_kernels.use_backend(backend) if backend else nullcontext()


class ConvolutionFloor(nn.Module):
    """The full-resolution convolutions alone, without bias: six in a training step of two.

    Every convolution has an input of its own, so that no gradients are added up.
    """

    def __init__(self, convolutions: tuple[nn.Conv2d, ...]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(conv.weight for conv in convolutions)

    def adapt(self, inputs: Inputs) -> Inputs:
        """``(p_low, p_high)`` to one leaf with the values of ``p_low`` per convolution."""
        return tuple(inputs[0].detach().requires_grad_() for _ in self.weights)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """``[N, C, H, W]`` maps to one convolution each."""
        return tuple(F.conv2d(x, w, padding=1) for x, w in zip(inputs, self.weights, strict=True))


def convolution_floor(block: nn.Module) -> ConvolutionFloor:
    """The floor of an ``FBSM`` or of an ``EFPNBS``: ``low_conv`` and ``refine_conv``.

    A mask per channel adds ``fuse_conv``, which is then as large as they are.
    """
    fbsm = getattr(block, "fbsm", block)
    convolutions = (fbsm.low_conv, fbsm.refine_conv)
    if fbsm.gate_channels > 1:
        convolutions = (*convolutions, fbsm.fuse_conv)
    return ConvolutionFloor(convolutions)


class Copy(nn.Module):
    """A device-to-device copy that moves ``traffic`` bytes, half of them read, half written."""

    def __init__(self, traffic: int, sets: int, device: str) -> None:
        super().__init__()
        half = max(traffic // 2, 1)
        self.sources = [torch.ones(half, dtype=torch.uint8, device=device) for _ in range(sets)]
        self.targets = [torch.empty_like(source) for source in self.sources]
        self.turn = 0

    def forward(self, *_: Tensor) -> Tensor:
        """Copy the next pair."""
        self.turn = (self.turn + 1) % len(self.sources)
        return self.targets[self.turn].copy_(self.sources[self.turn])


class Nothing(torch.autograd.Function):
    """A node of some leaves whose forward and backward compute nothing."""

    @staticmethod
    def forward(ctx: Any, gradients: Inputs, *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return leaves[0].new_empty(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.gradients


class AutogradAlone(nn.Module):
    """What is left of a training step when nothing is computed: the node, from Python, and its call."""

    def __init__(self, operator: nn.Module) -> None:
        super().__init__()
        self.operator = operator
        self.own_leaves = tuple(operator.parameters())
        self.gradients: Inputs = ()

    def adapt(self, inputs: Inputs) -> Inputs:
        """The inputs that get a gradient."""
        leaves = tuple(tensor for tensor in inputs if tensor.requires_grad)
        if not self.gradients:  # one set for all sets of inputs: nothing reads them
            self.gradients = tuple(map(torch.empty_like, (*leaves, *self.own_leaves)))
        return leaves

    def forward(self, *inputs: Tensor) -> Tensor:
        """A scalar of no value."""
        return Nothing.apply(self.gradients, *inputs, *self.own_leaves)


def eager_module(workload: Workload, device: str, memory_format: str) -> nn.Module:
    """The reference module with the workload's weights, dtype and format."""
    return _placed(copy.deepcopy(workload.master), workload, device, memory_format)


def fused_module(workload: Workload, device: str, memory_format: str) -> nn.Module:
    """Our module with the workload's weights, dtype and format."""
    module = getattr(efpn_kernels, workload.operator)(**workload.arguments)
    module.load_state_dict(workload.master.state_dict())
    return _placed(module, workload, device, memory_format)


def _placed(module: nn.Module, workload: Workload, device: str, memory_format: str) -> nn.Module:
    dtype = workload.dtype if workload.cast_parameters else None
    module = module.to(device, dtype)
    for parameter in module.parameters():
        parameter.data = as_format(parameter.data, memory_format)
    return module


def entrants(group: Group, backends: tuple[str, ...]) -> list[Entrant]:
    """Everyone in a group: eager first, since its error is the measure of the others."""
    workload = group.workload
    found = []
    for memory_format in workload.formats:
        found.append(Entrant(EAGER, memory_format))
        found += [Entrant(OURS, memory_format, backend) for backend in backends]
        found += [
            Entrant(variant, memory_format)
            for variant in (REDUCED, COMPILE, COMPILE_MAX, FLOOR, AUTOGRAD)
            if variant in group.variants
        ]
    if "contiguous" in workload.formats:  # the only one that engines take
        found += [Entrant(name, "contiguous") for name in RIVALS if name in group.variants]
    if COPY in group.variants:
        found.append(Entrant(COPY, "contiguous"))
    return found


def build(entrant: Entrant, group: Group, device: str, sets: int) -> Candidate:
    """The candidate of an entrant.

    May fail (a backend that is not there, a compiler that is missing): the caller reports it and
    goes on with the others.
    """
    workload, memory_format = group.workload, entrant.memory_format
    if entrant.variant in (OURS, REDUCED):
        return Candidate(entrant, fused_module(workload, device, memory_format))
    if entrant.variant == COPY:
        module = Copy(workload.traffic[group.direction], sets, device)
        return Candidate(entrant, module, differentiable=False, checked=False)
    if entrant.variant in ENGINES:
        return Candidate(entrant, ENGINES[entrant.variant](workload), differentiable=False)
    eager = eager_module(workload, device, memory_format)
    if entrant.variant == FLOOR:
        floor = workload.floor(eager)
        return Candidate(entrant, floor, adapt=floor.adapt, checked=False)
    if entrant.variant == AUTOGRAD:
        alone = AutogradAlone(eager)
        return Candidate(entrant, alone, adapt=alone.adapt, checked=False)
    if entrant.variant == EAGER:
        return Candidate(entrant, eager)
    # CUDA graphs are measured for every candidate alike (clock "graph"), not for this one alone.
    mode = "max-autotune-no-cudagraphs" if entrant.variant == COMPILE_MAX else None
    return Candidate(entrant, torch.compile(eager, dynamic=False, mode=mode))
