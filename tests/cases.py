"""The one list of cases: shapes, dtypes, memory layouts, gates and hidden sizes.

Every operator test draws its shapes, dtypes and layouts from here. A :class:`Problem` is one call of
one operator: its arguments, the fused function and the plain PyTorch one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from efpn_kernels import functional, reference
from efpn_kernels.reference import FORMS, REDUCTIONS

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LAYOUTS = ("contiguous", "channels_last")
BLOCK_OPERATORS = ("cem", "fbsm", "efpn_bs")


@dataclass(frozen=True)
class Shape:
    """Sizes of one block: ``low`` = Cl, ``high`` = Ch, ``hidden`` = D, ``gates`` = G."""

    n: int
    low: int
    high: int
    hidden: int
    low_size: tuple[int, int]
    high_size: tuple[int, int]
    per_channel: bool = False
    slow: bool = False

    @property
    def gates(self) -> int:
        return self.low if self.per_channel else 1

    @property
    def small(self) -> bool:
        """Whether an interpreter of kernels gets through it in seconds."""
        return self.n * max(self.low, self.hidden) * math.prod(self.low_size) <= 16384


SHAPES: dict[str, Shape] = {
    "x8": Shape(2, 16, 16, 16, (16, 24), (2, 3)),
    "x2": Shape(1, 8, 12, 8, (12, 16), (6, 8)),
    "non_dividing": Shape(2, 12, 20, 24, (13, 17), (5, 3)),
    "odd_channels": Shape(1, 17, 9, 5, (7, 11), (3, 4)),
    "one_channel": Shape(2, 1, 1, 1, (5, 6), (2, 2)),
    "same_size": Shape(1, 8, 8, 8, (6, 7), (6, 7)),
    "downsampled": Shape(1, 8, 8, 8, (4, 5), (9, 7)),
    "up_and_down": Shape(1, 8, 8, 8, (3, 12), (7, 4)),
    "one_pixel_high": Shape(2, 8, 8, 8, (9, 8), (1, 1)),
    "one_pixel_low": Shape(2, 8, 8, 8, (1, 1), (3, 2)),
    "one_pixel_both": Shape(1, 8, 8, 8, (1, 1), (1, 1)),
    "two_pixels": Shape(2, 8, 8, 8, (2, 2), (2, 1)),
    "row": Shape(1, 8, 8, 8, (1, 19), (1, 5)),
    "two_columns": Shape(1, 8, 8, 8, (11, 2), (4, 1)),
    "wide": Shape(1, 33, 32, 40, (5, 70), (2, 9)),
    "per_channel": Shape(2, 12, 16, 20, (10, 13), (3, 4), per_channel=True),
    "per_channel_downsampled": Shape(1, 5, 7, 6, (3, 4), (5, 6), per_channel=True),
    "per_channel_one_pixel": Shape(1, 4, 4, 4, (1, 1), (1, 1), per_channel=True),
    # Maps of one channel beside others: contiguous and channels_last at once.
    "one_hidden": Shape(2, 5, 4, 1, (9, 10), (3, 4)),
    "one_hidden_per_channel": Shape(2, 5, 4, 1, (9, 10), (3, 4), per_channel=True),
    "one_low": Shape(2, 1, 4, 3, (9, 10), (3, 4)),
    "one_high": Shape(2, 4, 1, 3, (9, 10), (3, 4), per_channel=True),
    "per_channel_row": Shape(1, 4, 3, 2, (1, 7), (1, 3), per_channel=True),
    "quarter_p2": Shape(1, 64, 64, 64, (50, 50), (7, 7)),
    "ai_tod": Shape(1, 256, 256, 256, (200, 200), (25, 25), slow=True),
    "ai_tod_hidden_64": Shape(2, 256, 256, 64, (56, 100), (7, 13), slow=True),
}
DTYPE_SHAPES = ("x8", "odd_channels", "wide", "per_channel", "one_hidden_per_channel")


@dataclass(frozen=True)
class Case:
    """A shape, a dtype and the memory format of every map and weight."""

    name: str
    shape: Shape
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"

    @property
    def small(self) -> bool:
        return self.shape.small

    @property
    def slow(self) -> bool:
        return self.shape.slow

    def __str__(self) -> str:
        return f"{self.name}-{str(self.dtype).removeprefix('torch.')}-{self.layout}"


def case(name: str, dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> Case:
    """The case of a named shape."""
    return Case(name, SHAPES[name], dtype, layout)


CASES: tuple[Case, ...] = tuple(
    case(name, dtype, layout)
    for name, shape in SHAPES.items()
    for dtype in DTYPES
    for layout in LAYOUTS
    if dtype == torch.float32 or name in DTYPE_SHAPES
)


@dataclass(frozen=True)
class LossCase:
    """One call of DCLoss. ``weight`` is "none", "full" or "row" (broadcast over the last dimension)."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    form: str = "equation"
    reduction: str = "mean"
    weight: str = "none"
    avg_factor: float | None = None
    loss_weight: float = 1.0
    parameter_dtype: torch.dtype = torch.float32

    @property
    def small(self) -> bool:
        return math.prod(self.shape) <= 8192

    @property
    def slow(self) -> bool:
        return math.prod(self.shape) > 10**6

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape)) or "scalar"
        dtype = str(self.dtype).removeprefix("torch.")
        extra = f"-avg{self.avg_factor:g}" if self.avg_factor is not None else ""
        scale = f"-times{self.loss_weight:g}" if self.loss_weight != 1.0 else ""
        return f"{size}-{dtype}-{self.form}-{self.reduction}-{self.weight}{extra}{scale}"


LOSS_CASES: tuple[LossCase, ...] = (
    *(
        LossCase((257, 4), dtype, form, reduction, weight)
        for dtype in DTYPES
        for form in FORMS
        for reduction in REDUCTIONS
        for weight in ("none", "full", "row")
    ),
    *(
        LossCase(shape, reduction=reduction)
        for shape in ((), (1,), (7,), (0, 4), (3, 1, 5), (2049,), (300, 333))
        for reduction in REDUCTIONS
    ),
    LossCase((64, 4), weight="full", avg_factor=17.0),
    LossCase((64, 4), weight="row", avg_factor=0.5, loss_weight=2.5),
    LossCase((64, 4), reduction="none", weight="full", loss_weight=-0.5),
    LossCase((64, 4), dtype=torch.float64, parameter_dtype=torch.float64),
    LossCase((1_200_000,), weight="full"),
)


@dataclass
class Problem:
    """One call: arguments in order, a gradient for each that requires one, and both functions."""

    functional: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    grad_out: Tensor | None = None

    def fused(self) -> dict[str, Tensor]:
        """The fused function: its result and the gradients, by name."""
        return self._run(self.functional, self.tensors, self.grad_out)

    def eager(self) -> dict[str, Tensor]:
        """The plain function in the same dtypes."""
        return self._run(self.reference, self.tensors, self.grad_out)

    def oracle(self) -> dict[str, Tensor]:
        """The plain function in float64."""
        tensors = {
            name: x.detach().double().requires_grad_(x.requires_grad)
            for name, x in self.tensors.items()
        }
        return self._run(
            self.reference, tensors, None if self.grad_out is None else self.grad_out.double()
        )

    def _run(
        self, function: Callable[..., Tensor], tensors: dict[str, Tensor], grad_out: Tensor | None
    ) -> dict[str, Tensor]:
        out = function(*tensors.values(), **self.options)
        wanted = {name: x for name, x in tensors.items() if x.requires_grad}
        results = {"out": out.detach()}
        if wanted:
            grads = torch.autograd.grad(out, list(wanted.values()), grad_out if out.dim() else None)
            results |= {f"grad_{name}": grad for name, grad in zip(wanted, grads, strict=True)}
        return results


def parameter_shapes(operator: str, s: Shape) -> dict[str, tuple[int, ...]]:
    """The parameters of ``functional.<operator>`` in their order."""
    project = {"weight": (s.low, s.high, 1, 1), "bias": (s.low,)}
    if operator == "cem":
        return project
    convs = {
        "high_conv": (s.hidden, s.high, 3, 3),
        "high_gate": (s.gates, s.hidden, 1, 1),
        "low_conv": (s.hidden, s.low, 3, 3),
        "low_gate": (s.gates, s.hidden, 1, 1),
        "fuse": (s.gates, s.gates, 3, 3),
        "refine": (s.low, s.low, 3, 3),
    }
    shapes = {}
    if operator == "efpn_bs":
        shapes |= {f"project_{name}": shape for name, shape in project.items()}
    for name, shape in convs.items():
        shapes |= {f"{name}_weight": shape, f"{name}_bias": shape[:1]}
    return shapes


def block_problem(operator: str, case: Case, device: str = "cpu", seed: int = 0) -> Problem:
    """``cem``, ``fbsm`` or ``efpn_bs`` on random maps; every argument requires a gradient."""
    s = case.shape
    generator = torch.Generator().manual_seed(zlib.crc32(f"{operator}/{case.name}/{seed}".encode()))

    def draw(shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
        x = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        x = x.to(device=device, dtype=case.dtype)
        if case.layout == "channels_last" and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x

    low = "c_low" if operator == "fbsm" else "p_low"
    tensors = {
        low: draw((s.n, s.low, *s.low_size)),
        "p_high": draw((s.n, s.high, *s.high_size)),
    }
    for name, shape in parameter_shapes(operator, s).items():
        # Unit variance behind every convolution keeps the gates in their sensitive range.
        tensors[name] = draw(shape, math.prod(shape[1:]) ** -0.5 if len(shape) == 4 else 0.5)
    if case.slow and operator != "cem":
        keep_off_the_kinks(tensors)
    return Problem(
        getattr(functional, operator),
        getattr(reference, operator),
        {name: x.requires_grad_() for name, x in tensors.items()},
        grad_out=draw((s.n, s.low, *s.low_size)),
    )


def keep_off_the_kinks(tensors: dict[str, Tensor], margin: float = 16.0) -> None:
    """Shift biases so that the input of no ReLU is near zero: up for every other channel, else down.

    Of the ten million values of a detector's level some are zero but for rounding, which puts them on
    either side of the ReLU; then a gradient is off by a whole pixel's, in eager as in ours. Small
    problems have no such values, and channels of both signs.
    """
    for conv in ("high_conv", "low_conv", "refine"):
        bias = tensors[f"{conv}_bias"]
        up = torch.arange(len(bias), device=bias.device) % 2 == 0
        bias.copy_(torch.where(up, margin, -margin))
        if conv != "refine":  # the gate is to stay in its sensitive range
            gate = conv.replace("conv", "gate")
            tensors[f"{gate}_bias"] -= margin * tensors[f"{gate}_weight"][:, up, 0, 0].sum(1)


def loss_problem(case: LossCase, device: str = "cpu", seed: int = 0) -> Problem:
    """DCLoss on errors on both sides of ``delta``, some of them zero and some large."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{case}/{seed}".encode()))

    def draw(shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
        x = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        return x.to(device=device, dtype=case.dtype)

    pred, target = draw(case.shape), draw(case.shape, 0.3)
    if pred.numel():
        pred.flatten()[::7] = target.flatten()[::7]
        pred.flatten()[3::11] *= 20
    tensors = {"pred": pred.requires_grad_(), "target": target.requires_grad_()}
    for name, value in (("k", 10.0), ("delta", 0.15)):
        parameter = torch.tensor(value, dtype=case.parameter_dtype, device=device)
        tensors[name] = parameter.requires_grad_()
    if case.weight != "none":
        shape = case.shape if case.weight == "full" else (*case.shape[:-1], 1)
        tensors["weight"] = draw(shape).abs()
    options = {"form": case.form, "reduction": case.reduction, "avg_factor": case.avg_factor}
    return Problem(
        lambda *args, **kwargs: functional.dc_loss(*args, **kwargs, loss_weight=case.loss_weight),
        lambda *args, **kwargs: case.loss_weight * reference.dc_loss(*args, **kwargs),
        tensors,
        options,
        grad_out=draw(case.shape) if case.reduction == "none" else None,
    )
