"""Random calls of the operators against their plain twins in float64: ``make fuzz N=20000``, or with a seed of its own

    python tests/fuzz.py --count 20000 --seed 1 --backend cpu

Sizes from nothing and one up, strides of every kind for inputs and for the gradient of the output, parts that are
frozen. In float64 every difference is a mistake. In other dtypes a value near zero may fall on the other side of a
ReLU, in eager as in ours: those are counted for both, and ours may not have more of them than eager has.
"""

from __future__ import annotations

import argparse
import math
import random
import secrets
import sys
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from cases import BLOCK_OPERATORS, Shape, parameter_shapes
from torch import Tensor

from efpn_kernels import functional, reference, use_backend
from efpn_kernels.reference import FORMS, REDUCTIONS

STRIDES = ("contiguous", "channels_last", "crop", "turned", "expanded", "every_second")
DTYPES = (torch.float64, torch.float64, torch.float32, torch.float32, torch.bfloat16, torch.float16)
CHANNELS = (1, 1, 2, 3, 5, 8, 17)
ROUNDINGS = {torch.float64: 65_536, torch.float32: 1024, torch.float16: 128, torch.bfloat16: 32}
"""Of the largest value: beyond them a result is wrong, or has a value on the other side of a ReLU."""


@dataclass(frozen=True)
class Draw:
    """One call; its numbers follow from ``seed``."""

    seed: int
    operator: str
    dtype: torch.dtype
    shape: Any
    strides: tuple[str, ...]
    frozen: tuple[int, ...]
    options: tuple[tuple[str, Any], ...] = ()

    def script(self, backend: str) -> str:
        """What to run in ``tests/`` for this call alone."""
        return (
            f"import torch\nfrom cases import Shape\nfrom fuzz import Draw, difference\n"
            f"draw = {self!r}\nprint(difference(draw, {backend!r}))"
        )


def draw(seed: int) -> Draw:
    """The call number ``seed``."""
    rng = random.Random(seed)
    operator = rng.choice((*BLOCK_OPERATORS, "dc_loss"))
    dtype = rng.choice(DTYPES)
    strides = tuple(rng.choice(STRIDES) for _ in range(4))
    frozen = tuple(i for i in range(16) if rng.random() < 0.15) if rng.random() < 0.3 else ()
    if operator == "dc_loss":
        sizes = tuple(rng.choice((0, 1, 2, 3, 7, 33)) for _ in range(rng.randint(0, 4)))
        options = (("form", rng.choice(FORMS)), ("reduction", rng.choice(REDUCTIONS)))
        return Draw(seed, operator, dtype, sizes, strides, frozen, options)
    low = rng.choice(CHANNELS)
    least = 0 if operator == "cem" else 1  # F.interpolate makes no empty map
    shape = Shape(
        rng.choice((0, 1, 1, 2, 3)),
        low,
        rng.choice(CHANNELS),
        rng.choice(CHANNELS),
        (rng.randint(least, 12), rng.randint(least, 12)),
        (rng.randint(1, 6), rng.randint(1, 6)),
        per_channel=rng.random() < 0.4,
    )
    return Draw(seed, operator, dtype, shape, strides, frozen)


def strided(x: Tensor, kind: str) -> Tensor:
    """The same values with other strides; an expanded one has those of its first image."""
    if kind == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if kind == "crop" and x.dim() > 1:
        around = x.new_full([s + 2 for s in x.shape], 7.0)
        inner = around[tuple(slice(1, s + 1) for s in x.shape)]
        return inner.copy_(x)
    if kind == "turned" and x.dim() > 1:
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if kind == "expanded" and x.dim() and x.shape[0]:
        return x[:1].expand_as(x)
    if kind == "every_second" and x.dim():
        return x.repeat_interleave(2, -1)[..., ::2]
    return x


def tensors(d: Draw) -> tuple[list[Tensor], Tensor | None]:
    """Arguments and the gradient of the output (None for a scalar)."""
    generator = torch.Generator().manual_seed(d.seed)

    def normal(shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (x * scale).to(d.dtype)

    if d.operator == "dc_loss":
        parts = [strided(normal(d.shape), kind) for kind in d.strides[:2]]
        parts += [torch.tensor(v, dtype=torch.float64).to(d.dtype) for v in (10.0, 0.15)]
        parts.append(strided(normal(d.shape).abs(), d.strides[2]))
        grad = normal(d.shape) if dict(d.options)["reduction"] == "none" else None
    else:
        s = d.shape
        parts = [
            strided(normal((s.n, s.low, *s.low_size)), d.strides[0]),
            strided(normal((s.n, s.high, *s.high_size)), d.strides[1]),
        ]
        for shape in parameter_shapes(d.operator, s).values():
            scale = math.prod(shape[1:]) ** -0.5 if len(shape) == 4 else 0.5
            parts.append(strided(normal(shape, scale), d.strides[2] if len(shape) == 4 else ""))
        grad = normal((s.n, s.low, *s.low_size))
    return parts, grad if grad is None else strided(grad, d.strides[3])


def results(function: Any, d: Draw, parts: list[Tensor], grad: Tensor | None) -> list[Tensor]:
    """The output, then the gradients of what is not frozen."""
    last = len(parts) - (d.operator == "dc_loss")  # its weight is not differentiable
    leaves = [
        x.detach().requires_grad_(i < last and i not in d.frozen) for i, x in enumerate(parts)
    ]
    out = function(*leaves, **dict(d.options))
    wanted = [x for x in leaves if x.requires_grad]
    if not wanted:
        return [out]
    return [out.detach(), *torch.autograd.grad(out, wanted, grad)]


def off(got: list[Tensor], exact: list[Tensor], dtype: torch.dtype) -> float:
    """The largest difference, in roundings of the largest value of its tensor."""
    worst = 0.0
    for x, y in zip(got, exact, strict=True):
        if x.shape != y.shape:
            return math.inf
        if x.numel():
            unit = torch.finfo(dtype).eps * max(y.abs().max().item(), 1e-3)
            worst = max(worst, (x.double() - y).abs().max().item() / unit)
    return worst


class Sigmoid(torch.autograd.Function):
    """Of which not only the value is right where it saturates: PyTorch's derivative is ``a (1 - a)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sigmoid()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.sigmoid() * (-x).sigmoid()


def difference(d: Draw, backend: str) -> tuple[float, float]:
    """How far ours is off, and how far eager is."""
    device = "cuda" if backend in ("cuda", "triton") and torch.cuda.is_available() else "cpu"
    parts, grad = tensors(d)
    twin = getattr(reference, d.operator)
    with patch.object(torch, "sigmoid", Sigmoid.apply):
        exact = results(
            twin, d, [x.double() for x in parts], None if grad is None else grad.double()
        )
    parts = [x.to(device) for x in parts]
    grad = grad if grad is None else grad.to(device)
    eager = results(twin, d, parts, grad)
    with use_backend(backend):
        ours = results(getattr(functional, d.operator), d, parts, grad)
    for x, y in zip(ours, eager, strict=True):
        assert x.dtype == y.dtype, d
    return tuple(off([x.cpu() for x in r], exact, d.dtype) for r in (ours, eager))


def complaints(seeds: range, backend: str) -> list[str]:
    """A script for each call that is wrong; those on the other side of a ReLU only where eager has fewer."""
    wrong, flips, of_eager = [], [], 0
    for seed in seeds:
        d = draw(seed)
        ours, eager = difference(d, backend)
        limit = ROUNDINGS[d.dtype]
        of_eager += eager > limit
        if not ours <= limit:
            (wrong if d.dtype == torch.float64 else flips).append(
                f"# off by {ours:.3g} roundings, eager by {eager:.3g}\n{d.script(backend)}"
            )
    allowed = of_eager + 3 * math.sqrt(of_eager + 1)
    return wrong + (flips if len(flips) > allowed else [])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("--backend", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    print(f"fuzz: seeds from {options.seed}, {options.count} calls, backend {options.backend}")
    found = complaints(range(options.seed, options.seed + options.count), options.backend)
    print("\n\n".join(found) or "fuzz: nothing found")
    sys.exit(bool(found))
