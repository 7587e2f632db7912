"""What is measured: an operator at one shape, and the groups of its measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from efpn_kernels import reference

from .records import GroupKey

DRAWS = 16
"""Of a workload's inputs, before an error counts as more than bad luck."""
SMALL = 1 << 20  # bytes of inputs of which all draws are taken
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@torch.no_grad()
def keep_off_the_kinks(fbsm: reference.FBSM, margin: float = 8.0) -> None:
    """Shift biases so that the input of no ReLU is near zero: up for every other channel, else down.

    Of ten million inputs some are zero but for rounding, which puts them on either side of the ReLU;
    then a gradient is off by a whole pixel's, in eager as in ours, and no error says anything. Half of
    the channels pass, as with the usual weights.
    """
    gates = {fbsm.high_conv: fbsm.high_gate, fbsm.low_conv: fbsm.low_gate, fbsm.refine_conv: None}
    for conv, gate in gates.items():
        up = torch.arange(conv.out_channels) % 2 == 0
        conv.bias.copy_(torch.where(up, margin, -margin))
        if gate is not None:  # it is to stay in its sensitive range
            gate.bias -= margin * gate.weight[:, up, 0, 0].sum(1)


@dataclass(frozen=True, eq=False)
class Workload:
    """An operator with its arguments, the shapes of its inputs and its dtype.

    Args:
        operator: a module of :mod:`efpn_kernels`, and its twin's name in the reference.
        shape: the label of the shape.
        arguments: of the module's constructor.
        input_shapes: one shape for each tensor of ``forward``.
        differentiable: which inputs need a gradient.
        dtype: of the inputs, and of the parameters if ``cast_parameters``.
        formats: memory formats to measure, keys of :data:`FORMATS`.
        input_scale: standard deviation of the inputs.
        floor: builds the library calls that no implementation can avoid from the eager module;
            its ``forward`` takes the same inputs.
        traffic: for memory-bound operators, the bytes that have to move, by direction.
        autograd_alone: whether training is so short that the time of autograd alone is of interest.
        reducible: whether ``use_float32_precision("high")`` changes what runs.
    """

    operator: str
    shape: str
    arguments: Mapping[str, Any]
    input_shapes: tuple[tuple[int, ...], ...]
    differentiable: tuple[bool, ...]
    dtype: torch.dtype
    formats: tuple[str, ...] = ("contiguous", "channels_last")
    input_scale: float = 1.0
    cast_parameters: bool = True
    floor: Callable[[nn.Module], nn.Module] | None = None
    traffic: Mapping[str, int] = field(default_factory=dict)
    autograd_alone: bool = False
    reducible: bool = False

    @property
    def dtype_name(self) -> str:
        """``"float32"`` and so on."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def input_bytes(self) -> int:
        """Bytes of one set of inputs."""
        elements = sum(torch.Size(shape).numel() for shape in self.input_shapes)
        return elements * self.dtype.itemsize

    @property
    def draws(self) -> int:
        """How many draws of the inputs the check begins with."""
        return DRAWS if self.input_bytes < SMALL else 1

    @cached_property
    def master(self) -> nn.Module:
        """The reference module in float32 with seeded weights: every candidate's weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = getattr(reference, self.operator)(**self.arguments)
        for fbsm in module.modules():
            if isinstance(fbsm, reference.FBSM):
                keep_off_the_kinks(fbsm)
        return module

    def inputs(self, device: str, memory_format: str, draw: int = 0) -> tuple[Tensor, ...]:
        """One set of inputs: the same values in every format, others in every draw."""
        generator = torch.Generator(device).manual_seed(1 + 2 * draw)
        tensors = []
        for shape, needs_grad in zip(self.input_shapes, self.differentiable, strict=True):
            values = torch.randn(shape, generator=generator, device=device) * self.input_scale
            tensor = as_format(values.to(self.dtype), memory_format)
            tensors.append(tensor.requires_grad_(needs_grad))
        return tuple(tensors)

    def input_sets(self, device: str, memory_format: str, count: int) -> list[tuple[Tensor, ...]]:
        """``count`` sets of :meth:`inputs`, each in memory of its own."""
        first = self.inputs(device, memory_format)
        return [first, *(tuple(map(_own_leaf, first)) for _ in range(count - 1))]


@dataclass(frozen=True, eq=False)
class Group:
    """Candidates of one workload that are measured together, and how.

    Args:
        variants: names of :mod:`~benchmarks.records` beside ours.
        budget_s: the time that the rounds should take, warm-up excluded.
    """

    workload: Workload
    direction: str
    cache: str
    clock: str
    variants: tuple[str, ...]
    budget_s: float

    @property
    def key(self) -> GroupKey:
        """The key of the group's rows."""
        work = self.workload
        return GroupKey(
            work.operator, work.shape, work.dtype_name, self.direction, self.cache, self.clock
        )


def _own_leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def as_format(tensor: Tensor, memory_format: str) -> Tensor:
    """``tensor`` in a memory format if it is a map, else as it is."""
    if tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=FORMATS[memory_format])
